"""Generators of checkpoint files with the true key layouts of the releases they imitate."""

from __future__ import annotations

import gzip
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torchvision

State = dict[str, torch.Tensor]
Tree = dict[str, Any]


def cheap_state(arch: str) -> State:
    """torchvision's names and shapes, each tensor one repeated number: a file of kilobytes.

    The numbers differ from tensor to tensor, so two that were exchanged are noticed.
    """
    with torch.device("meta"):
        shapes = torchvision.models.get_model(arch, weights=None).state_dict()
    state = {}
    for index, (name, tensor) in enumerate(shapes.items()):
        number = 7 if name.endswith("num_batches_tracked") else 0.25 + index / 1024
        state[name] = torch.tensor(number, dtype=tensor.dtype).expand(tensor.shape)
    return state


@cache
def real_state(arch: str, seed: int = 0) -> State:
    """Random weights with trained-looking statistics: what a forward pass needs to be told apart."""
    torch.manual_seed(seed)
    state = torchvision.models.get_model(arch, weights=None).state_dict()
    for name, tensor in state.items():
        if name.endswith("running_mean"):
            tensor.normal_(0, 0.1)
        elif name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
        elif name.endswith("num_batches_tracked"):
            tensor.fill_(1000)
    return dict(state)


def without_fc(state: Mapping[str, torch.Tensor]) -> State:
    """The backbone's tensors."""
    return {name: tensor for name, tensor in state.items() if not name.startswith("fc.")}


def _prefixed(prefix: str, state: Mapping[str, torch.Tensor]) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def _linear(prefix: str, *sizes: int, bias: bool = True, between_bn: bool = False) -> State:
    """An MLP head as nn.Sequential numbers it: linear, (batch norm,) ReLU, linear, …"""
    head: State = {}
    step = 3 if between_bn else 2
    for index, (wide, narrow) in enumerate(pairwise(sizes)):
        head[f"{prefix}{step * index}.weight"] = torch.tensor(0.5).expand(narrow, wide)
        if bias:
            head[f"{prefix}{step * index}.bias"] = torch.tensor(0.5).expand(narrow)
        if between_bn and index < len(sizes) - 2:
            for name in ("weight", "bias", "running_mean", "running_var"):
                head[f"{prefix}{step * index + 1}.{name}"] = torch.tensor(0.5).expand(narrow)
    return head


def _training(state: Mapping[str, torch.Tensor]) -> Tree:
    momentum = {index: {"momentum_buffer": tensor} for index, tensor in enumerate(list(state.values())[:3])}
    return {"epoch": 200, "optimizer": {"state": momentum, "param_groups": [{"lr": 0.03, "params": [0, 1, 2]}]}}


def _slow_copy(state: Mapping[str, torch.Tensor]) -> State:
    """The moving average beside a network: here 2.0 everywhere, so that it cannot be taken for the network."""
    return {
        name: torch.tensor(2.0).expand(tensor.shape) if tensor.is_floating_point() else tensor
        for name, tensor in state.items()
    }


def moco(state: State, version: int) -> Tree:
    width = state["fc.weight"].shape[1]
    encoder = without_fc(state)
    head = {"fc.weight": torch.tensor(0.5).expand(128, width), "fc.bias": torch.tensor(0.5).expand(128)}
    if version == 2:
        head = _linear("fc.", width, width, 128)
    slow = _slow_copy(encoder)
    return {
        "arch": "resnet50",
        "state_dict": {
            **_prefixed("module.encoder_q.", encoder | head),
            **_prefixed("module.encoder_k.", slow | head),
            "module.queue": torch.tensor(0.5).expand(128, 65536),
            "module.queue_ptr": torch.tensor([0]),
        },
        **_training(state),
    }


def barlow_or_vicreg(state: State, method: str) -> Tree:
    width = state["fc.weight"].shape[1]
    model = _prefixed("module.backbone.", without_fc(state))
    model |= _linear("module.projector.", width, 8192, 8192, 8192, bias=method == "vicreg", between_bn=True)
    if method == "barlow":
        model |= {f"module.bn.{name}": torch.tensor(0.5).expand(8192) for name in ("running_mean", "running_var")}
    return {"model": model, **_training(state)}


def msbreg(state: State) -> Tree:
    arch = "resnet18" if "layer1.2.bn1.bias" not in state else "resnet50"
    encoder = _prefixed("encoder.", without_fc(state))
    slow = _slow_copy(encoder)
    width = state["fc.weight"].shape[1]
    projector = _linear("projector.", width, 4096, 256, between_bn=True)
    return {
        "format": "msbreg-checkpoint",
        "version": 1,
        "arch": arch,
        "method": "msbreg",
        "epoch": 3,
        "step": 42,
        "stem": "imagenet",
        "input": {"channels": "RGB", "value_range": 1.0, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.25]},
        "online": encoder | projector | _linear("predictor.", 256, 4096, 256, between_bn=True),
        "target": slow | projector,
        "config": {"recipe": {"arch": arch, "lr": 0.3}},
        "optimizer": _training(state)["optimizer"],
        "progress": {"step": 42},
    }


def detectron2_name(name: str) -> str:
    """Written as the chain of replacements of MoCo's converter, not as the project's exact map."""
    if not name.startswith("layer"):
        name = "stem." + name
    for stage in (4, 3, 2, 1):
        name = name.replace(f"layer{stage}.", f"res{stage + 1}.")
    for norm in (1, 2, 3):
        name = name.replace(f"bn{norm}.", f"conv{norm}.norm.")
    return name.replace("downsample.0.", "shortcut.").replace("downsample.1.", "shortcut.norm.")


def detectron2(state: State) -> Tree:
    model = {detectron2_name(name): tensor.numpy() for name, tensor in without_fc(state).items()}
    return {"model": model, "__author__": "somebody", "matching_heuristics": True}


def mmdet(state: State) -> Tree:
    meta = {
        "layout": "msbreg-transfer/mmdet/1",
        "arch": "resnet18" if "layer1.2.bn1.bias" not in state else "resnet50",
        "mean": [123.675, 116.28, 103.53],
        "std": [58.395, 57.12, 57.375],
        "bgr_to_rgb": True,
        "style": "pytorch",
    }
    return {"meta": meta, "state_dict": without_fc(state)}


@dataclass(frozen=True)
class Layout:
    """One kind of file.

    Attributes:
        format: the format that must recognise it.
        build: torchvision state dict with fc → what lies in the file.
        place: keys to the mapping that holds the backbone.
        key: torchvision name → name in that mapping.
        container: how it is packed.
    """

    format: str
    build: Callable[[State], Tree]
    place: tuple[str, ...]
    key: Callable[[str], str]
    container: str = "zip"

    def weights(self, tree: Tree) -> dict[str, Any]:
        inside: Any = tree
        for key in self.place:
            inside = inside[key]
        return inside


LAYOUTS = {
    "torchvision": Layout("torchvision", dict, (), str),
    "released": Layout("torchvision", without_fc, (), str),
    "lincls": Layout(
        "torchvision",
        lambda s: {"arch": "resnet50", "state_dict": _prefixed("module.", s), **_training(s)},
        ("state_dict",),
        "module.{}".format,
    ),
    "timm": Layout("torchvision", lambda s: {"model": dict(s)}, ("model",), str, "legacy"),
    "moco_v1": Layout("moco", lambda s: moco(s, 1), ("state_dict",), "module.encoder_q.{}".format, "legacy"),
    "moco_v2": Layout("moco", lambda s: moco(s, 2), ("state_dict",), "module.encoder_q.{}".format),
    "barlow": Layout("barlow_vicreg", lambda s: barlow_or_vicreg(s, "barlow"), ("model",), "module.backbone.{}".format),
    "vicreg": Layout("barlow_vicreg", lambda s: barlow_or_vicreg(s, "vicreg"), ("model",), "module.backbone.{}".format),
    "msbreg": Layout("msbreg", msbreg, ("online",), "encoder.{}".format),
    "detectron2": Layout("detectron2", detectron2, ("model",), detectron2_name, "pickle"),
    "mmdet": Layout("mmdet", mmdet, ("state_dict",), str),
}


def write(tree: Tree, path: Path, container: str) -> Path:
    """Pack `tree` as a "zip", "legacy", "pickle" or "safetensors" file, or gzip'd: "zip+gzip", …"""
    kind, _, packed = container.partition("+")
    if kind == "pickle":
        path.write_bytes(pickle.dumps(tree, protocol=4))
    elif kind == "safetensors":
        from safetensors.torch import save_file

        save_file({name: tensor.contiguous().clone() for name, tensor in tree.items()}, str(path))
    else:
        torch.save(tree, path, _use_new_zipfile_serialization=kind == "zip")
    if packed:
        path.write_bytes(gzip.compress(path.read_bytes(), compresslevel=1))
    return path
