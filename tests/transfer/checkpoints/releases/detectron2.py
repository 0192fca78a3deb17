"""Backbones under Detectron2's names."""

from checkpoint_files import State, Tree, without_fc

from releases import Release


def name_in_detectron2(name: str) -> str:
    """Written as the chain of replacements of MoCo's converter, not as the project's exact map."""
    if not name.startswith("layer"):
        name = "stem." + name
    for stage in (4, 3, 2, 1):
        name = name.replace(f"layer{stage}.", f"res{stage + 1}.")
    for norm in (1, 2, 3):
        name = name.replace(f"bn{norm}.", f"conv{norm}.norm.")
    return name.replace("downsample.0.", "shortcut.").replace("downsample.1.", "shortcut.norm.")


def build(state: State) -> Tree:
    model = {name_in_detectron2(name): tensor.numpy() for name, tensor in without_fc(state).items()}
    return {"model": model, "__author__": "somebody", "matching_heuristics": True}


RELEASES = {
    "detectron2": Release(
        title="Detectron2 backbone, converted",
        format="detectron2",
        build=build,
        place=("model",),
        key=name_in_detectron2,
        source="facebookresearch/moco: detection/convert-pretrain-to-detectron2.py",
        container="pickle",
        archs=("resnet18", "resnet50"),
    )
}
