"""ResNets of Hugging Face's transformers."""

import re

from checkpoint_files import State, Tree, linear, under, width_of, without_fc

from releases import Release


def name_in_transformers(name: str) -> str:
    """Written from torchvision's side, stage by stage, not as the project's map."""
    if not name.startswith("layer"):
        return "embedder.embedder." + name.replace("conv1.", "convolution.").replace("bn1.", "normalization.")
    stage, block, part, kind = re.fullmatch(r"layer(\d)\.(\d+)\.(.+)\.(\w+)", name).groups()
    parts = {"downsample.0": "shortcut.convolution", "downsample.1": "shortcut.normalization"}
    for number in (1, 2, 3):
        parts[f"conv{number}"] = f"layer.{number - 1}.convolution"
        parts[f"bn{number}"] = f"layer.{number - 1}.normalization"
    return f"encoder.stages.{int(stage) - 1}.layers.{block}.{parts[part]}.{kind}"


def build(state: State, classifier: bool) -> Tree:
    backbone = {name_in_transformers(name): tensor for name, tensor in without_fc(state).items()}
    return under("resnet.", backbone) | linear("classifier.1.", width_of(state), 1000) if classifier else backbone


def _release(title: str, classifier: bool, **more) -> Release:
    lints = ("downsample-in-bottleneck", *(("classifier",) if classifier else ()))
    return Release(
        title=title,
        format="huggingface",
        build=lambda state: build(state, classifier),
        place=(),
        key=lambda name: "resnet." * classifier + name_in_transformers(name),
        source="huggingface/transformers: models/resnet/modeling_resnet.py",
        lints=lints,
        **more,
    )


RELEASES = {
    "hf_resnet50": _release("transformers ResNetModel", False, archs=("resnet50", "resnet18", "resnet101")),
    "hf_classifier": _release(
        "transformers ResNetForImageClassification",
        True,
        container="safetensors",
        archs=("resnet18", "resnet34", "resnet50", "resnet152"),
    ),
}
