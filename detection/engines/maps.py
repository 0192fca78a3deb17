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
from detection.maps import left_behind, patch_of
from transfer.checkpoints.backbone import Backbone
from transfer.checkpoints.families import family_of
from transfer.checkpoints.verify import normalised, probe_image, stages_seen
from transfer.runtime.batch_norm import NaiveSyncBatchNorm

NETWORK = "network."  # where the family's own module lies in the trunk
SIDES = 224, 320  # of the image of the proof: no square, and no multiple of windows at every stage


class MapsOfNetwork(nn.Module, DetectorTrunk):
    """Images [n, 3, H, W], sides multiples of 32 → the maps behind `out_indices`, see `Family.maps`."""

    recomputed: ClassVar[tuple[type[nn.Module], ...]] = (ConvNeXtBlock, SwinTransformerBlock, Block)

    def __init__(self, arch: str, out_indices: tuple[int, ...], drop_path: float, train_positions: bool = True) -> None:
        super().__init__()
        self.arch, self.out_indices, self.family = arch, tuple(out_indices), family_of(arch)
        self.options = {
            "arch": arch,
            "out_indices": self.out_indices,
            "drop_path": drop_path,
            "train_positions": train_positions,
        }
        self.widths = tuple(self.family.map_widths(arch)[index] for index in self.out_indices)
        self.network = _without_end(self.family.build_for_maps(arch, drop_path=drop_path), arch)
        self.patch = patch_of(arch)
        if not train_positions:
            self.network.get_parameter("pos_embed").requires_grad_(False)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        return self.family.maps(self.network, in_strides_of_16(images, self.patch), self.out_indices)

    def placed(self, backbone: Backbone) -> dict[str, Tensor]:
        """See `DetectorTrunk`: all but what stands behind the last map."""
        behind = left_behind(self.arch)
        return {f"{NETWORK}{name}": tensor for name, tensor in backbone.state.items() if name not in behind}

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

    def __init__(self, widths: tuple[int, ...], out: int, levels: nn.ModuleList) -> None:
        super().__init__()
        self.levels = levels
        self.fpn = FeaturePyramidNetwork(list(widths), out)

    def forward(self, maps: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """See the class; contiguous, as regions are cut out of them."""
        scaled = {str(index): level(each) for index, (level, each) in enumerate(zip(self.levels, maps, strict=True))}
        made = [level.contiguous() for level in self.fpn(scaled).values()]
        return (*made, F.max_pool2d(made[-1], 1, 2))


def norms(widths: tuple[int, ...], eps: float) -> nn.ModuleList:
    """A layer norm for each map of a network with stages."""
    return nn.ModuleList(ChannelNorm(width, eps) for width in widths)


def scalings(widths: tuple[int, ...], patch: int, norm: str) -> nn.ModuleList:
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
