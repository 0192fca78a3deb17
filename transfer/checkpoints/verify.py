"""Weights that silently did not arrive: the most expensive mistake of this field, made impossible here.

`verify` is given the very network that will compute, after its last cast, move and wrapper and before its first step.
It compares every backbone tensor inside it with the Backbone, and the output of every stage with that of the family's
own module (torchvision's for a ResNet; block by block for a transformer) for the same raw image. Only what has passed
trains, or makes features.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from transfer.checkpoints.backbone import Backbone, InputSpec
from transfer.checkpoints.families import family_of, is_optional
from transfer.runtime.errors import EngineError, TrainingError

STAGE_TOLERANCE = 1e-4  # in full float32
# In the network's own arithmetic. Roundings of 2⁻⁹ (bf16) add up to 0.6 to 1.3 % of a stage's largest output in
# ResNets of 18 to 152 layers (random weights, measured); TF32 and fp16 have two and more bits more.
ROUNDING = {"bf16": 0.05, "fp16": 0.02, "tf32": 0.02}

# engine's tensor, and the part of the engine's model it was found in ("backbone", "roi_heads.res5", …)
Placed = tuple[torch.Tensor, str]


@dataclass(frozen=True)
class Verification:
    """Proof that a network holds the checkpoint's weights and computes with them as the family's module does.

    Attributes:
        tensors: backbone tensors found in the network and compared, all equal bit for bit.
        expected: tensors that the Backbone has (without `num_batches_tracked`).
        by_part: the same counts by place, for example {"backbone": 215, "roi_heads.res5": 50}.
        stage_error: largest absolute difference to that module's stage output relative to max(1, |output|), eval mode,
            full float32, the same raw image pushed through the network's own normalisation.
        weights: `Backbone.weights`, the sha256 of these tensors.
        device: where the network lay.
        precision: what it computes in: "fp32", "tf32", "bf16" or "fp16".
        rounding: as `stage_error`, in that precision; empty for fp32.
    """

    tensors: int
    expected: int
    by_part: dict[str, int]
    stage_error: dict[str, float]
    weights: str
    device: str = "cpu"
    precision: str = "fp32"
    rounding: dict[str, float] = field(default_factory=dict)

    def line(self) -> str:
        """One line for the log."""
        parts = ", ".join(f"{part} {count}" for part, count in self.by_part.items())
        worst = max(self.stage_error.values())
        return (
            f"verified: {self.tensors} of {self.expected} tensors equal ({parts}); "
            f"stage outputs within {worst:.1e} of the reference network's on {self.device}"
            + (f", {max(self.rounding.values()):.1e} in {self.precision}" if self.rounding else "")
        )


def probe_image(height: int = 96, width: int = 160) -> NDArray[np.uint8]:
    """A fixed RGB image [height, width, 3] with structure at several scales and three different planes.

    The sides are multiples of 32, so no engine pads it.
    """
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    planes = [np.sin(x / (7 + 3 * k)) * np.cos(y / (5 + 2 * k)) + 0.3 * np.sin(x * y / 900 + k) for k in range(3)]
    noise = np.random.default_rng(0).normal(0, 0.2, (height, width, 3))
    image = np.stack(planes, axis=-1) + noise
    image = (image - image.min()) / (image.max() - image.min())
    image[..., 2] **= 2  # planes of different mean: a swapped channel order cannot hide
    return np.asarray(np.round(image * 255), dtype=np.uint8)


@torch.no_grad()
def reference_stages(
    backbone: Backbone, image: NDArray[np.uint8], model: nn.Module | None = None
) -> dict[str, torch.Tensor]:
    """Stage name → output of the family's module in eval mode for an RGB uint8 image [H, W, 3].

    [1, C, H', W'] of convolutional networks, [1, tokens, C] of transformers. `model` saves building it again: what
    `backbone.network()` returned.
    """
    if model is None:
        model = backbone.network()
    family = family_of(backbone.arch)
    with stages_seen({stage: model.get_submodule(stage) for stage in family.stages(backbone.arch)}) as seen:
        family.outputs(model, normalised(image, backbone.input), family.poolings(backbone.arch)[:1])
    return seen


def normalised(image: NDArray[np.uint8], spec: InputSpec) -> torch.Tensor:
    """RGB uint8 [H, W, 3] → [1, 3, H, W] as the weights expect it."""
    pixels = image if spec.channels == "RGB" else image[..., ::-1]
    x = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None].float() * (spec.value_range / 255.0)
    return (x - torch.tensor(spec.mean).view(1, 3, 1, 1)) / torch.tensor(spec.std).view(1, 3, 1, 1)


def own_precision(device: torch.device | str, amp: str = "off") -> str:
    """What convolutions on `device` round to: `amp` where it is on, "tf32" on GPUs that may, else "fp32"."""
    if amp in ROUNDING:
        return amp
    return "tf32" if torch.device(device).type == "cuda" and torch.backends.cudnn.allow_tf32 else "fp32"


def in_precision(device: torch.device | str, amp: str) -> torch.autocast:
    """Mixed precision as training has it: "bf16", "fp16", or "off"."""
    types = {"bf16": torch.bfloat16, "fp16": torch.float16}
    return torch.autocast(torch.device(device).type, types.get(amp), enabled=amp in types)


@dataclass(frozen=True, eq=False)
class Form:
    """What a network made of a Backbone holds and computes that is not the family's own module.

    Attributes:
        state: name in the network → tensor that must be there.
        sides: (height, width) of the image of the proof.
        reference: RGB uint8 [height, width, 3] → outputs by name, each [1, …], that it must compute.
    """

    state: Mapping[str, Tensor]
    sides: tuple[int, int]
    reference: Callable[[NDArray[np.uint8]], Mapping[str, Tensor]]


def verify(
    backbone: Backbone,
    engine: str,
    placed: Mapping[str, Placed],
    stages: Callable[[NDArray[np.uint8]], Mapping[str, torch.Tensor]],
    *,
    precision: str = "fp32",
    own: Callable[[NDArray[np.uint8]], Mapping[str, torch.Tensor]] | None = None,
    also: Sequence[tuple[int, int]] = (),
    form: Form | None = None,
) -> Verification:
    """Compare what is inside the network that will compute with the Backbone.

    Args:
        backbone: what should be there.
        engine: its name, for messages.
        placed: name in the family's module → (tensor inside the engine's model, part of the model it sits in).
        stages: maps an RGB uint8 image [H, W, 3] to the network's stage outputs (eval mode, through its own channel
            order and normalisation, where its weights lie), for all of `Family.stages`. It is called with TF32 off: in
            full float32 a stage may be off by `STAGE_TOLERANCE`.
        precision: what `own_precision` says; in another one than "fp32" the stages are computed once more as they will
            be, and may be off by `ROUNDING`.
        own: as `stages`, in that precision; `stages` itself if it follows PyTorch's switches (TF32).
        also: (height, width) of further images to compare at, beside the size that the family proves at.
        form: what is to be in the network and computed by it, where that is not the family's module.

    Raises:
        EngineError: a tensor is absent or differs, or a stage output is further away than that.
    """
    state = form.state if form else backbone.state
    wanted = {name: tensor for name, tensor in state.items() if not is_optional(name)}
    absent = [name for name in wanted if name not in placed]
    differing = [
        f"{name} in {placed[name][1]}"
        for name, tensor in wanted.items()
        if name in placed and not _same(placed[name][0], tensor)
    ]
    if absent or differing:
        raise EngineError(
            f"{engine} did not take over the weights of {backbone.source.path}: nothing was trained",
            found=f"{len(wanted) - len(absent) - len(differing)} of {len(wanted)} tensors arrived; "
            + _some("absent", absent)
            + _some("different", differing),
            todo="this is a fault of the conversion, not of the checkpoint: please report it with "
            "the output of `python -m transfer inspect FILE`",
        )
    errors: dict[str, float] = {}
    rounding: dict[str, float] = {}
    usual = form.sides if form else family_of(backbone.arch).proof_sides(backbone.arch)
    for sides in dict.fromkeys((usual, *also)):
        image = probe_image(*sides)
        reference = form.reference(image) if form else reference_stages(backbone, image)
        shown = {stage: stage if sides == usual else f"{stage} at {sides[0]} × {sides[1]}" for stage in reference}
        with torch.no_grad():
            with _full_precision():
                found = _stage_errors(engine, reference, stages(image), STAGE_TOLERANCE, "float32")
            errors |= {shown[stage]: error for stage, error in found.items()}
            if precision != "fp32":
                found = _stage_errors(engine, reference, (own or stages)(image), ROUNDING[precision], precision)
                rounding |= {shown[stage]: error for stage, error in found.items()}
    return Verification(
        tensors=len(wanted),
        expected=len(wanted),
        by_part=dict(Counter(placed[name][1] for name in wanted)),
        stage_error=errors,
        weights=backbone.weights,
        device=next(iter(placed.values()))[0].device.type,
        precision=precision,
        rounding=rounding,
    )


@contextmanager
def stages_seen(modules: Mapping[str, torch.nn.Module]) -> Iterator[dict[str, torch.Tensor]]:
    """A dictionary that fills with the outputs of the modules, by their names here, whenever they compute."""
    outputs: dict[str, torch.Tensor] = {}

    def keep(stage: str) -> Any:
        return lambda module, arguments, output: outputs.update({stage: output})

    hooks = [module.register_forward_hook(keep(stage)) for stage, module in modules.items()]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _full_precision() -> Iterator[None]:
    """TensorFloat-32, the default on recent GPUs, rounds by more than `STAGE_TOLERANCE`."""
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield


def _stage_errors(
    engine: str,
    reference: Mapping[str, torch.Tensor],
    computed: Mapping[str, torch.Tensor],
    tolerance: float,
    precision: str,
) -> dict[str, float]:
    errors: dict[str, float] = {}
    for stage in reference:
        ours, theirs = reference[stage], computed[stage].float().cpu()
        if ours.shape != theirs.shape:
            raise EngineError(
                f"{engine}: {stage} has another shape than in the reference network",
                found=f"{tuple(theirs.shape)} instead of {tuple(ours.shape)} for the image of the proof",
            )
        if not bool(ours.isfinite().all()):
            # Weights that overflow do so everywhere, in rounding's own places: compared is what stays finite in both.
            both = ours.isfinite() & theirs.isfinite()
            ours, theirs = (torch.where(both, maps, 0) for maps in (ours, theirs))
        scale = max(1.0, float(ours.abs().max()))
        errors[stage] = float((ours - theirs).abs().max()) / scale
    # `not <=` also catches NaN.
    bad = {stage: error for stage, error in errors.items() if not error <= tolerance}
    if bad:
        raise EngineError(
            f"{engine} computes something else than the reference network with the same weights: nothing was trained",
            found=", ".join(f"{stage} differs by {error:.2g}" for stage, error in bad.items())
            + f" in {precision}, of {tolerance:g} allowed",
            todo="channel order, normalisation or the position of the stride do not match this checkpoint"
            if precision == "float32"
            else f"{precision} cannot hold what these weights compute: choose full precision",
        )
    return errors


def _same(inside: torch.Tensor, wanted: torch.Tensor) -> bool:
    inside = inside.detach().cpu()
    return inside.shape == wanted.shape and bool(torch.equal(inside.to(wanted.dtype), wanted))


def _some(label: str, names: list[str]) -> str:
    return f"\n{len(names)} {label}: {', '.join(names[:4])}{' …' if len(names) > 4 else ''}" if names else ""


# A `Verification` as plain values, with a word on what was "proved" when: what checkpoints, caches and records keep.
Proof = dict[str, Any]
UNPROVED: Proof = {"proved": "nothing: the training began under a version that kept no proof of its network"}


def prove(
    backbone: Backbone,
    part: str,
    network: nn.Module,
    compute: Callable[[Tensor, bool], object],
    device: torch.device,
    bf16: bool = False,
    also: Sequence[tuple[int, int]] = (),
) -> Verification:
    """Compare a network's own tensors and stage outputs with the Backbone's; its modes must be those of evaluation.

    Args:
        part: what the network is, for the record and messages: "trunk", "network".
        network: the module that computes, with the submodules of the family's; a classifier may stand at its end.
        compute: uint8 RGB [1, 3, h, w] and whether bf16 may be used; calls the network, by the way of every image.
        device: where it computes.
        bf16: whether it computes in bf16.

    Raises:
        EngineError: it is not the checkpoint's.
    """
    placed = {name: (tensor, part) for name, tensor in network.state_dict().items()}
    watched = {stage: network.get_submodule(stage) for stage in family_of(backbone.arch).stages(backbone.arch)}

    def stages(image: NDArray[np.uint8], lower: bool) -> Mapping[str, Tensor]:
        with stages_seen(watched) as seen:
            compute(torch.from_numpy(image).permute(2, 0, 1)[None], lower)
        return seen

    return verify(
        backbone,
        f"the classifier's {part}",
        placed,
        lambda image: stages(image, False),
        precision=own_precision(device, "bf16" if bf16 else "off"),
        own=lambda image: stages(image, bf16),
        also=also,
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
