"""A frozen backbone as a function from pixels to feature vectors, which its family pools in the published ways."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, get_args

import torch
from torch import Tensor, nn

from transfer.checkpoints.backbone import Backbone
from transfer.checkpoints.families import family_of
from transfer.checkpoints.verify import Seal, Verification, prove
from transfer.classification.views import Precision, to_network
from transfer.runtime.errors import UserError


class Trunk(nn.Module):
    """A `Backbone` with poolings behind it; frozen, and in evaluation mode whatever is asked.

    It computes nothing before it is proved to be the checkpoint's network, nor after a change without a new proof.

    Args:
        backbone: the weights, and what they expect as pixels.
        poolings: names of `Family.poolings`, at least one.
        device: where it computes.
        precision: "bf16" computes the network under autocast; pooling and outputs are float32 in both. "fp32" is
            PyTorch's: on recent GPUs its convolutions use TF32 unless `torch.backends.cudnn.allow_tf32` is off.

    Raises:
        UserError: no such pooling or precision.
    """

    def __init__(
        self, backbone: Backbone, poolings: Sequence[str], device: torch.device, precision: Precision = "fp32"
    ) -> None:
        super().__init__()
        self.family = family_of(backbone.arch)
        if not poolings:
            names = self.family.poolings(backbone.arch)
            raise UserError("no pooling is given", todo=f"choose at least one of {', '.join(names)}")
        for pooling in poolings:
            self.family.demand_pooling(backbone.arch, pooling)
        self.widths = {pooling: self.family.width(backbone.arch, pooling) for pooling in poolings}
        if precision not in get_args(Precision):
            raise UserError(f"unknown precision {precision!r}", todo=f"choose one of {', '.join(get_args(Precision))}")
        self.backbone, self.device, self.bf16 = backbone, device, precision == "bf16"
        self._proved: tuple[Verification, Seal] | None = None
        self._sizes: tuple[tuple[int, int], ...] = ()  # of images seen, beside the one that the family proves at
        with torch.random.fork_rng(devices=[]):  # building it draws weights that are then overwritten
            self.network = backbone.network()
        self.requires_grad_(False).eval()
        self.to(device)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stubs

    def train(self, mode: bool = True) -> Trunk:
        """Stays in evaluation mode, also inside a model that trains: the statistics are the checkpoint's."""
        return super().train(False)

    @property
    def proof(self) -> Verification:
        """That this network, as it is now, holds the checkpoint; made when first asked for and after every change.

        Raises:
            EngineError: it does not.
        """
        if self._proved is None or not self._proved[1].holds(self):
            self._proved = None
            found = prove(self.backbone, "trunk", self.network, self._outputs, self.device, self.bf16, self._sizes)
            self._proved = found, Seal(self)
        return self._proved[0]

    def seen_at(self, height: int, width: int) -> None:
        """The images will have so many pixels: the proof is to speak of that size too, where that makes a difference.

        A convolution computes the same whatever the size; a table of positions is resized to it.
        """
        if self.family.depends_on_size(self.backbone.arch) and (height, width) not in self._sizes:
            usual = self.family.proof_sides(self.backbone.arch)
            if (height, width) != usual:
                self._sizes, self._proved = (*self._sizes, (height, width)), None

    def _outputs(self, pixels: Tensor, bf16: bool, poolings: Collection[str] = ()) -> Any:
        images = to_network(pixels, self.backbone.input, self.device)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=bf16):
            return self.family.outputs(self.network, images, tuple(poolings or self.widths))

    @torch.no_grad()
    def forward(self, pixels: Tensor, poolings: Collection[str] = ()) -> dict[str, Tensor]:
        """uint8 RGB [n, 3, h, w] → pooling → float32 [n, width], on the device; of its own poolings or of those given.

        Raises:
            EngineError: this is not the checkpoint's network.
            UserError: a pooling that cannot be made of images of this size.
        """
        names = tuple(poolings or self.widths)
        self.family.demand(self.backbone.arch, names, *pixels.shape[2:])
        self.seen_at(*pixels.shape[2:])
        _ = self.proof
        return self.family.features(self.network, self._outputs(pixels, self.bf16, names), names)
