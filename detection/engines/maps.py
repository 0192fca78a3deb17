"""Four maps of a family's own network, and a feature pyramid on them, at any size of images.

ConvNeXts and Swin transformers give maps of strides 4, 8, 16, 32, each of which goes through a layer norm of its own
(facebookresearch/ConvNeXt: object_detection/mmdet/models/backbones/convnext.py; SwinTransformer/
Swin-Transformer-Object-Detection: mmdet/models/backbones/swin_transformer.py). Those of a plain vision transformer are
all of its patches' stride: two are enlarged by deconvolutions and one is shrunk (bytedance/ibot:
evaluation/object_detection/mmcv_custom/register_backbone.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import torch
from timm.models.convnext import ConvNeXtBlock
from timm.models.swin_transformer import SwinTransformerBlock
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import FeaturePyramidNetwork

from detection.engines.trunk import ChannelNorm, DetectorTrunk, in_strides_of_16
from transfer.checkpoints.backbone import Backbone
from transfer.checkpoints.families import family_of
from transfer.checkpoints.families.vit import vit_of
from transfer.checkpoints.verify import normalised, probe_image, stages_seen
from transfer.runtime.batch_norm import NaiveSyncBatchNorm

NETWORK = "network."  # where the family's own module lies in the trunk
SIDES = 224, 320  # of the image of the proof: no square, and no multiple of windows at every stage


class MapsOfNetwork(nn.Module, DetectorTrunk):
    """Images [n, 3, H, W], sides multiples of 32 → the maps behind `out_indices`, see `Family.maps`."""

    recomputed: ClassVar[tuple[type[nn.Module], ...]] = (ConvNeXtBlock, SwinTransformerBlock, Block)

    def __init__(self, arch: str, out_indices: tuple[int, ...], drop_path: float) -> None:
        super().__init__()
        self.arch, self.out_indices, self.family = arch, tuple(out_indices), family_of(arch)
        self.options = {"arch": arch, "out_indices": self.out_indices, "drop_path": drop_path}
        self.widths = tuple(self.family.map_widths(arch)[index] for index in self.out_indices)
        self.patch = vit_of(arch).patch if self.family.name == "vit" else 0
        self.network = _without_end(self.family.build_for_maps(arch, drop_path=drop_path), arch)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        seen = in_strides_of_16(images, self.patch) if self.patch else images
        return self.family.maps(self.network, seen, self.out_indices)

    def placed(self, backbone: Backbone) -> dict[str, Tensor]:
        """See `DetectorTrunk`: all but what stands behind the last map."""
        behind = tuple(f"{name}." for name in self.family.behind)
        return {f"{NETWORK}{name}": tensor for name, tensor in backbone.state.items() if not name.startswith(behind)}

    @property
    def sides(self) -> tuple[int, int]:
        """See `DetectorTrunk`."""
        return SIDES

    def watched(self) -> Mapping[str, nn.Module]:
        """See `DetectorTrunk`."""
        return {name: self.network.get_submodule(name) for name in self._stages()}

    def as_trained(self, backbone: Backbone) -> Mapping[str, Tensor]:
        """See `DetectorTrunk`."""
        images = self._small(backbone).to(next(self.parameters()).device)
        with self.family.as_trained(self.network, self.arch), stages_seen(self.watched()) as seen:
            self.family.maps(self.network, images, self.out_indices)
        return self._named(seen)

    def of_family(self, backbone: Backbone) -> Mapping[str, Tensor]:
        """See `DetectorTrunk`."""
        network = backbone.network()
        watched = {name: network.get_submodule(name) for name in self._stages()}
        with torch.no_grad(), stages_seen(watched) as seen:
            self.family.outputs(network, self._small(backbone), self.family.poolings(self.arch)[:1])
        return self._named(seen)

    def layer(self, name: str) -> int:
        """See `DetectorTrunk`."""
        return self.family.layer(self.arch, name.removeprefix(NETWORK))

    def _stages(self) -> list[str]:
        return [name for name in self.family.stages(self.arch) if name not in self.family.behind]

    def _small(self, backbone: Backbone) -> Tensor:
        return normalised(probe_image(*self.family.proof_sides(self.arch)), backbone.input)

    def _named(self, seen: Mapping[str, Tensor]) -> dict[str, Tensor]:
        height, width = self.family.proof_sides(self.arch)
        return {f"{name}, as trained at {height} × {width}": out for name, out in seen.items()}


def _without_end(network: nn.Module, arch: str) -> nn.Module:
    """What no map goes through would be trained on nothing."""
    for name in family_of(arch).behind:
        if name in dict(network.named_modules()):
            network.set_submodule(name, nn.Identity())
    return network


class MapPyramid(nn.Module):
    """Maps of the trunk → five of strides 4 … 64: each made to its stride, then Lin et al.'s pyramid.

    arXiv 1612.03144, torchvision's module; its coarsest is every second position of the one before it.
    """

    def __init__(self, widths: tuple[int, ...], out: int, made: nn.ModuleList) -> None:
        super().__init__()
        self.made = made
        self.fpn = FeaturePyramidNetwork(list(widths), out)

    def forward(self, maps: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """See the class; contiguous, as regions are cut out of them."""
        scaled = {str(index): make(each) for index, (make, each) in enumerate(zip(self.made, maps, strict=True))}
        levels = [level.contiguous() for level in self.fpn(scaled).values()]
        return (*levels, F.max_pool2d(levels[-1], 1, 2))


def normed(widths: tuple[int, ...]) -> nn.ModuleList:
    """A layer norm for each map of a network with stages."""
    return nn.ModuleList(ChannelNorm(width) for width in widths)


def scaled(widths: tuple[int, ...], patch: int, norm: str) -> nn.ModuleList:
    """The maps of a plain transformer, of the patches' stride, made to 4, 8, 16, 32.

    Args:
        norm: between two deconvolutions: "SyncBN", over all processes, or "BN".
    """
    kinds: dict[str, Any] = {"SyncBN": NaiveSyncBatchNorm, "BN": nn.BatchNorm2d}
    double = partial(nn.ConvTranspose2d, kernel_size=2, stride=2)
    first, second, *_ = widths
    if patch != 8:
        return nn.ModuleList(
            [
                nn.Sequential(double(first, first), kinds[norm](first), nn.GELU(), double(first, first)),
                double(second, second),
                nn.Identity(),
                nn.MaxPool2d(2),
            ]
        )
    return nn.ModuleList([double(first, first), nn.Identity(), nn.MaxPool2d(2), nn.MaxPool2d(4)])
