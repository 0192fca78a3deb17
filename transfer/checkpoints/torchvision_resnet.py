"""torchvision's modules of the ResNets in `architectures`: its import takes seconds, so a file of its own."""

from __future__ import annotations

from typing import Any

import torch
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from transfer.checkpoints.architectures import STAGES, architecture


class _WideResNet(ResNet):  # type: ignore[misc]  # torchvision is untyped
    """torchvision's ResNet with the stem and all stages `width` times as wide, which its own constructor cannot say."""

    def __init__(self, block: Any, layers: tuple[int, ...], width: int) -> None:
        super().__init__(block, list(layers))
        self.inplanes = 64 * width
        self.conv1 = torch.nn.Conv2d(3, self.inplanes, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = torch.nn.BatchNorm2d(self.inplanes)
        for index, (stage, count) in enumerate(zip(STAGES, layers, strict=True)):
            planes = 64 * width * 2**index
            setattr(self, stage, self._make_layer(block, planes, count, stride=1 if index == 0 else 2))
        for module in self.modules():
            if isinstance(module, torch.nn.Conv2d):  # as torchvision's constructor does
                torch.nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def build_resnet(arch: str, *, stride_in_1x1: bool = False) -> ResNet:
    """A randomly initialised torchvision ResNet without its classifier (`fc` is the identity).

    Its `state_dict()` has exactly the names and shapes that a `Backbone` holds.

    Args:
        arch: one of `ARCHITECTURES`.
        stride_in_1x1: put a bottleneck's stride into its first 1×1 convolution, as Caffe's ResNet has it.
    """
    known = architecture(arch)
    block = BasicBlock if known.basic else Bottleneck
    model = (
        ResNet(block, list(known.layers), groups=known.groups, width_per_group=known.group_width)
        if known.width == 1
        else _WideResNet(block, known.layers, known.width)
    )
    model.fc = torch.nn.Identity()
    if stride_in_1x1 and not known.basic:
        for stage in STAGES[1:]:
            first = getattr(model, stage)[0]
            first.conv1.stride, first.conv2.stride = first.conv2.stride, first.conv1.stride
    return model
