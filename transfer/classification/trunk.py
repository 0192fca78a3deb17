"""A frozen backbone as a function from pixels to feature vectors, and the published ways to pool its last map."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from transfer.checkpoints.architectures import stage_channels
from transfer.checkpoints.backbone import Backbone
from transfer.checkpoints.verify import LAYERS, Seal, Verification, prove
from transfer.classification.views import Precision, to_network
from transfer.runtime.errors import UserError

WINDOW, MAP = 6, 7  # of "grid": side of the averaged window, and of the map of a crop of 193 to 224 pixels
STRIDE = 32  # of the last map


def _average(maps: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(maps, 1).flatten(1)


def _maximum(maps: Tensor) -> Tensor:
    return maps.amax((2, 3))


def _grid(maps: Tensor) -> Tensor:
    return F.avg_pool2d(maps, WINDOW, stride=1).flatten(1)


# Name → (how, features per channel). "avg" is the input of torchvision's classifier. "grid" is VISSL's pooling of res5
# for SVMs on VOC07, AvgPool2d(6, stride 1), flattened channel by channel (facebookresearch/vissl:
# configs/config/benchmark/linear_image_classification/voc07/eval_resnet_8gpu_transfer_voc07_svm.yaml).
POOLINGS: Mapping[str, tuple[Callable[[Tensor], Tensor], int]] = {
    "avg": (_average, 1),
    "max": (_maximum, 1),
    "grid": (_grid, (MAP - WINDOW + 1) ** 2),
}


def width(arch: str, pooling: str) -> int:
    """Features that `pooling` makes of an image: C = 2048 for "avg" and "max" of a ResNet-50, 4 C for "grid".

    Raises:
        CheckpointError: no such architecture.
        UserError: no such pooling.
    """
    if pooling not in POOLINGS:
        raise UserError(f"unknown pooling {pooling!r}", todo=f"choose one of {', '.join(POOLINGS)}")
    return stage_channels(arch)["layer4"] * POOLINGS[pooling][1]


def demand_map(poolings: Collection[str], height: int, width: int) -> None:
    """Raise `UserError` if one of the poolings cannot be made of a crop of so many pixels: "grid" takes a 7 × 7 map."""
    sides = -(-height // STRIDE), -(-width // STRIDE)
    if "grid" in poolings and sides != (MAP, MAP):
        raise UserError(
            f'the pooling "grid" averages {WINDOW} × {WINDOW} windows of a {MAP} × {MAP} map',
            found="a map of {} × {}, of a crop of {} × {} pixels".format(*sides, height, width),
            todo="use a crop of 224, or the pooling avg",
        )


class Trunk(nn.Module):
    """A `Backbone` up to the end of layer4, poolings behind it; frozen, and in evaluation mode whatever is asked.

    It computes nothing before it is proved to be the checkpoint's network, nor after a change without a new proof.

    Args:
        backbone: the weights, and what they expect as pixels.
        poolings: names of `POOLINGS`, at least one.
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
        if not poolings:
            raise UserError("no pooling is given", todo=f"choose at least one of {', '.join(POOLINGS)}")
        self.widths = {pooling: width(backbone.arch, pooling) for pooling in poolings}
        if precision not in get_args(Precision):
            raise UserError(f"unknown precision {precision!r}", todo=f"choose one of {', '.join(get_args(Precision))}")
        self.backbone, self.device, self.bf16 = backbone, device, precision == "bf16"
        self._proved: tuple[Verification, Seal] | None = None
        with torch.random.fork_rng(devices=[]):  # building it draws weights that are then overwritten
            net = backbone.as_torchvision()
        self.layers = nn.Sequential(*(net.get_submodule(name) for name in LAYERS))
        self.requires_grad_(False).eval()
        self.to(device)
        self.layers.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stubs

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
            layers = dict(zip(LAYERS, self.layers, strict=True))
            found = prove(self.backbone, "trunk", layers, self._maps, self.device, self.bf16)
            self._proved = found, Seal(self)
        return self._proved[0]

    def _maps(self, pixels: Tensor, bf16: bool) -> Tensor:
        images = to_network(pixels, self.backbone.input, self.device)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=bf16):
            maps: Tensor = self.layers(images)
        return maps.float()

    @torch.no_grad()
    def forward(self, pixels: Tensor, poolings: Collection[str] = ()) -> dict[str, Tensor]:
        """uint8 RGB [n, 3, h, w] → pooling → float32 [n, width], on the device; of its own poolings or of those given.

        Raises:
            EngineError: this is not the checkpoint's network.
            UserError: "grid" of a crop whose last map is not 7 × 7.
        """
        _ = self.proof
        names = poolings or tuple(self.widths)
        demand_map(names, *pixels.shape[2:])
        maps = self._maps(pixels, self.bf16)
        return {pooling: POOLINGS[pooling][0](maps) for pooling in names}
