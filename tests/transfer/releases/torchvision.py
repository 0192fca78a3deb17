"""Plain ResNets: torchvision's own files, and the many releases that hold nothing but a backbone under its names."""

from checkpoint_files import training_state, under, without_fc

from releases import Release


def _release(title: str, build, source: str, place=(), key=str, **more) -> Release:
    return Release(title=title, format="torchvision", build=build, place=place, key=key, source=source, **more)


RELEASES = {
    "torchvision": _release(
        "torchvision", dict, "pytorch/vision: models/resnet.py", archs=("resnet50", "resnet18"), lints=("classifier",)
    ),
    "released": _release(
        "Barlow Twins and VICReg, resnet50.pth", without_fc, "facebookresearch/barlowtwins: hubconf.py"
    ),
    "lincls": _release(
        "MoCo and SimSiam, linear evaluation",
        lambda s: {"arch": "resnet50", "state_dict": under("module.", s), **training_state(s)},
        "facebookresearch/moco: main_lincls.py",
        place=("state_dict",),
        key="module.{}".format,
        lints=("classifier",),
    ),
}
