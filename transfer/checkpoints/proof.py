"""The proof of the networks that classification computes with: of the very object, where it lies and as it computes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from detection.recipe import Verification
from transfer.checkpoints.architectures import STAGES
from transfer.checkpoints.backbone import Backbone
from transfer.checkpoints.verify import own_precision, stages_seen, verify
from transfer.runtime.errors import TrainingError

# A `Verification` as plain values, with a word on what was "proved" when: what checkpoints, caches and records keep.
Proof = dict[str, Any]
UNPROVED: Proof = {"proved": "nothing: the training began under a version that kept no proof of its network"}
LAYERS = ("conv1", "bn1", "relu", "maxpool", *STAGES)  # of a ResNet, in the order in which it computes


def prove(
    backbone: Backbone,
    part: str,
    layers: Mapping[str, nn.Module],
    compute: Callable[[Tensor, bool], object],
    device: torch.device,
    bf16: bool = False,
) -> Verification:
    """Compare a network's own tensors and stage outputs with the Backbone's; its modes must be those of evaluation.

    Args:
        part: what the network is, for the record and messages: "trunk", "network".
        layers: name in `LAYERS` → the modules that compute.
        compute: uint8 RGB [1, 3, h, w] and whether bf16 may be used; calls the layers, by the way of every image.
        device: where it computes.
        bf16: whether it computes in bf16.

    Raises:
        EngineError: it is not the checkpoint's.
    """
    placed = {f"{name}.{key}": (t, part) for name, layer in layers.items() for key, t in layer.state_dict().items()}

    def stages(image: NDArray[np.uint8], lower: bool) -> Mapping[str, Tensor]:
        with stages_seen({stage: layers[stage] for stage in STAGES}) as seen:
            compute(torch.from_numpy(image).permute(2, 0, 1)[None], lower)
        return seen

    return verify(
        backbone,
        f"the classifier's {part}",
        placed,
        lambda image: stages(image, False),
        precision=own_precision(device, "bf16" if bf16 else "off"),
        own=lambda image: stages(image, bf16),
    )


class Seal:
    """Tells whether a network's modules and tensors are still those of when this was made, and none was written to.

    It looks at PyTorch's counters, not at numbers: microseconds. Writing through `tensor.data` leaves no trace in them.
    """

    def __init__(self, network: nn.Module) -> None:
        self._modules = [(module, module.training) for module in network.modules()]
        owners = [owner for module, _ in self._modules for owner in (module._parameters, module._buffers)]
        self._tensors = [
            (owner, name, tensor, tensor._version, tensor.data_ptr())
            for owner in owners
            for name, tensor in owner.items()
            if tensor is not None
        ]

    def holds(self, network: nn.Module) -> bool:
        """Whether nothing was changed, moved or replaced."""
        modules = list(network.modules())
        return (
            len(modules) == len(self._modules)
            and all(
                one is other and one.training == mode for one, (other, mode) in zip(modules, self._modules, strict=True)
            )
            and all(
                owner.get(name) is tensor and tensor._version == version and tensor.data_ptr() == place
                for owner, name, tensor, version, place in self._tensors
            )
        )


def joined(proofs: list[Proof]) -> Proof:
    """Proofs of several networks that hold the same weights as one: the largest of their errors, all their devices."""
    first, *others = proofs
    if all(other == first for other in others):
        return dict(first)
    errors = {
        name: {stage: max(proof[name].get(stage, 0.0) for proof in proofs) for proof in proofs for stage in proof[name]}
        for name in ("stage_error", "rounding")
    }
    words = {name: " and ".join(sorted({str(proof[name]) for proof in proofs})) for name in ("device", "precision")}
    return {**first, **errors, **words}


def plain(proof: Verification, proved: str) -> Proof:
    """As checkpoints, caches and records keep it; `proved` says what was proved, and when."""
    return asdict(proof) | {"proved": proved}


def of_beginning(state: Mapping[str, Any], backbone: Backbone) -> Verification | None:
    """As `kept`, for engines; None where an old version kept no proof.

    Raises:
        TrainingError: the training began with other weights than the checkpoint's.
    """
    proof = kept(state, backbone)
    return None if proof is None or proof == UNPROVED else Verification(**proof)


def kept(state: Mapping[str, Any], backbone: Backbone) -> Proof | None:
    """The proof in the state of a training that is taken up; `UNPROVED` where an old version kept none.

    Raises:
        TrainingError: the training began with other weights than the checkpoint's.
    """
    proof: Proof | None = state.get("proof", UNPROVED)
    if proof is not None and proof.get("weights", backbone.weights) != backbone.weights:
        raise TrainingError(
            "this training began with other weights",
            found=f"{backbone.source.path} was read otherwise then: {proof['weights'][:12]}, "
            f"now {backbone.weights[:12]}",
            todo="remove the run's folder to train again",
        )
    return proof
