"""Barlow Twins and VICReg: training checkpoints; their released backbones are plain ResNets."""

import torch
from checkpoint_files import State, Tree, bare_norm, linear, training_state, under, width_of, without_fc
from torchvision.models.resnet import Bottleneck, ResNet

from releases import Refusal, Release


def build(state: State, barlow: bool) -> Tree:
    width = width_of(state)
    projector: State = {}
    for index, inputs in ((0, width), (3, 8192)):
        projector |= linear(f"{index}.", inputs, 8192, bias=not barlow) | bare_norm(f"{index + 1}.", 8192)
    projector |= linear("6.", 8192, 8192, bias=False)
    model = under("module.backbone.", without_fc(state)) | under("module.projector.", projector)
    if barlow:
        model |= bare_norm("module.bn.", 8192, affine=False)
    return {"model": model, **training_state(state)}


def resnet200x2(_: State) -> State:
    """The shapes of VICReg's widest network: 3, 24, 36 and 3 blocks, everything twice as wide."""
    with torch.device("meta"):
        shapes = ResNet(Bottleneck, [3, 24, 36, 3]).state_dict()
    return {
        name: torch.tensor(0.5).expand([2 * n if n >= 64 else n for n in tensor.shape])
        for name, tensor in shapes.items()
    }


def _release(title: str, format: str, source: str, **more) -> Release:
    return Release(
        title=title,
        format=format,
        build=lambda state: build(state, format == "barlow_twins"),
        place=("model",),
        key="module.backbone.{}".format,
        source=source,
        **more,
    )


RELEASES = {
    "barlow": _release("Barlow Twins, training checkpoint", "barlow_twins", "facebookresearch/barlowtwins: main.py"),
    "vicreg": _release(
        "VICReg, full checkpoint",
        "vicreg",
        "facebookresearch/vicreg: main_vicreg.py, resnet.py",
        archs=("resnet50", "resnet50w2"),
    ),
}

REFUSED = {
    "vicreg_resnet200x2": Refusal(
        "VICReg, resnet200x2.pth",
        lambda state: without_fc(resnet200x2(state)),
        ("ResNet-200", "none of the engines can build"),
        "facebookresearch/vicreg: resnet.py",
        format="torchvision",
    ),
    "vicreg_resnet200x2_full": Refusal(
        "VICReg, resnet200x2_fullckpt.pth",
        lambda state: build(resnet200x2(state), barlow=False),
        ("ResNet-200", "none of the engines can build"),
        "facebookresearch/vicreg: resnet.py",
        format="vicreg",
    ),
}
