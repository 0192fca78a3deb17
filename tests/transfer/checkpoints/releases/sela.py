"""SeLa: the models of 2020, training checkpoints, and what of it is refused."""

import sys
from types import ModuleType

import torch
from checkpoint_files import State, Tree, filled, linear, training_state, width_of, without_fc

from releases import Refusal, Release


def block_name(name: str, outer: str = "") -> str:
    """torchvision's name → its place in nn.Sequential."""
    for number, ours in enumerate(("conv1.", "bn1.", "", "", "layer1.", "layer2.", "layer3.", "layer4.")):
        if ours and name.startswith(ours):
            return f"features.{outer}{number}.{name.removeprefix(ours)}"
    raise AssertionError(name)


def _labels(clusterings: int) -> torch.Tensor:
    return torch.tensor(7).expand(clusterings, 1281167)


def build(state: State) -> Tree:
    return {"state_dict": without_fc(state) | linear("fc.", width_of(state), 3000), "labels": _labels(10)}


def build_training(state: State, clusterings: int, outer: str) -> Tree:
    weights = {block_name(name, outer): tensor for name, tensor in without_fc(state).items()}
    for head in ["top_layer.0."] if clusterings == 1 else [f"top_layer{i}." for i in range(clusterings)]:
        weights |= linear(head, width_of(state), 3000)
    return {"arch": "resnetv1", "state_dict": weights, **training_state(state), "L": _labels(clusterings)}


def build_bare(state: State) -> Tree:
    return dict(build_training(state, 10, "")["state_dict"])


def build_preactivation(state: State) -> Tree:
    """resnetv2: no norm behind the stem, stages at 2 to 5, shortcuts without a norm."""
    weights = {"features.0.weight": state["conv1.weight"]}
    for name, tensor in without_fc(state).items():
        if name.startswith("layer") and "downsample.1." not in name:
            if ".bn" in name and not name.endswith("num_batches_tracked"):
                convolution = name.rpartition(".")[0].replace(".bn", ".conv")
                tensor = filled(state[f"{convolution}.weight"].shape[1])  # a norm stands before its convolution
            place = name.removeprefix("layer").replace("downsample.", "shortcut.")
            weights[f"features.{int(place[0]) + 1}{place[1:]}"] = tensor
    return weights | linear("top_layer0.", 2048, 3000) | linear("top_layer1.", 2048, 3000)


def build_pickled_network(state: State) -> Tree:
    """A file that pickles an object of the class models.resnetv1.ResNet, as `torch.save(model)` does."""
    for name in ("models", "models.resnetv1"):
        sys.modules.setdefault(name, ModuleType(name))
    module = sys.modules["models.resnetv1"]
    network = type("ResNet", (torch.nn.Module,), {"__module__": "models.resnetv1"})
    module.ResNet = network  # type: ignore[attr-defined]
    return {"model": network()}


def _release(title: str, build, place: tuple[str, ...], key, source: str, **more) -> Release:
    return Release(title=title, format="sela", build=build, place=place, key=key, source=source, **more)


RELEASES = {
    "sela": _release(
        "SeLa",
        build,
        ("state_dict",),
        str,
        "yukimasano/self-label: README.md, change_state_dict.py",
        archs=("resnet50", "resnet18"),
    ),
    "sela_training": _release(
        "SeLa, training checkpoint",
        lambda state: build_training(state, 10, "module."),
        ("state_dict",),
        lambda name: block_name(name, "module."),
        "yukimasano/self-label: main.py, files.py, models/resnetv1.py",
    ),
    "sela_training_single": _release(
        "SeLa, training checkpoint, one clustering",
        lambda state: build_training(state, 1, ""),
        ("state_dict",),
        block_name,
        "yukimasano/self-label: main.py, files.py, models/resnetv1.py",
        container="legacy",
    ),
    "sela_bare": _release(
        "SeLa, bare state dict", build_bare, (), block_name, "yukimasano/self-label: README.md, models/resnetv1.py"
    ),
}

REFUSED = {
    "sela_preactivation": Refusal(
        "SeLa, resnetv2",
        build_preactivation,
        ("pre-activation", "resnet50-10x3k_pp.pth"),
        "yukimasano/self-label: models/resnetv2.py",
        format="sela",
    ),
    "sela_model_final": Refusal(
        "SeLa, model_final.pth.tar",
        build_pickled_network,
        ("models.resnetv1.ResNet", "not run"),
        "yukimasano/self-label: main.py",
    ),
}
