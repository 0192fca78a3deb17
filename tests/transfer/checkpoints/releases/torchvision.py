"""Plain ResNets: torchvision's own files, and the many releases that hold nothing but a backbone under its names."""

import torch
from checkpoint_files import State, Tree, training_state, under, without_fc

from releases import Release


def build_linear(state: State) -> Tree:
    """What linear evaluation writes after MoCo's example; its best accuracy is a tensor of one number."""
    return {
        "arch": "resnet50",
        "state_dict": under("module.", state),
        "best_acc1": torch.tensor([71.1]),
        **training_state(state),
    }


def build_align_uniform(state: State) -> Tree:
    return {**build_linear(state), "acc1": torch.tensor([67.7]), "acc5": torch.tensor([87.9])}


def _release(title: str, build, source: str, place=(), key=str, **more) -> Release:
    return Release(title=title, format="torchvision", build=build, place=place, key=key, source=source, **more)


def _linear(title: str, build, source: str) -> Release:
    return _release(title, build, source, ("state_dict",), "module.{}".format, lints=("classifier",))


RELEASES = {
    "torchvision": _release(
        "torchvision",
        dict,
        "pytorch/vision: models/resnet.py",
        archs=("resnet50", "resnet18"),
        lints=("classifier",),
        real="files that torchvision wrote (random weights)",
    ),
    "released": _release(
        "Barlow Twins and VICReg, resnet50.pth and resnet50x2.pth",
        without_fc,
        "facebookresearch/barlowtwins: hubconf.py; facebookresearch/vicreg: hubconf.py",
        archs=("resnet50", "resnet50w2"),
    ),
    "vicregl_backbone": _release("VICRegL, resnet50_alpha*.pth", without_fc, "facebookresearch/VICRegL: hubconf.py"),
    "dino_backbone": _release("DINO, dino_resnet50_pretrain.pth", without_fc, "facebookresearch/dino: hubconf.py"),
    "densecl": _release(
        "DenseCL",
        lambda state: {"state_dict": without_fc(state), "author": "DenseCL"},
        "WXinlong/DenseCL: tools/extract_backbone_weights.py",
        place=("state_dict",),
        archs=("resnet50", "resnet101"),
    ),
    "detco": _release(
        "DetCo",
        lambda state: {"state_dict": without_fc(state)},
        "xieenze/DetCo: benchmarks/detection/convert-pretrain-to-detectron2.py",
        place=("state_dict",),
    ),
    "lincls": _linear(
        "MoCo, MoCo v3 and SimSiam, linear evaluation", build_linear, "facebookresearch/moco: main_lincls.py"
    ),
    "align_uniform_linear": _linear(
        "AlignUniform, with linear classifier",
        build_align_uniform,
        "SsnL/moco_align_uniform: hubconf.py, main_lincls.py",
    ),
}
