"""Building blocks of checkpoint files; the files of each release are put together in `releases/`."""

from __future__ import annotations

import gzip
import pickle
import zipfile
from collections.abc import Mapping
from contextlib import nullcontext
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision

from transfer.checkpoints.backbone import Backbone
from transfer.checkpoints.container import Contents
from transfer.checkpoints.families import family_of
from transfer.checkpoints.read import backbone_from, read_backbone
from transfer.runtime.errors import CheckpointError

State = dict[str, torch.Tensor]
Tree = dict[str, Any]


def _with_classifier(arch: str) -> torch.nn.Module:
    """torchvision's model, or for what torchvision does not have, the family's with a classifier called `fc`."""
    family = family_of(arch)
    if family.name == "resnet" and arch in torchvision.models.list_models():
        return torchvision.models.get_model(arch, weights=None)
    model = family.build(arch)
    model.fc = torch.nn.Linear(family.channels(arch), 1000)
    return model


@lru_cache
def _on_meta(arch: str) -> State:
    with torch.device("meta"):
        return _with_classifier(arch).state_dict()


def cheap_state(arch: str) -> State:
    """torchvision's names and shapes, each tensor one repeated number: a file of kilobytes.

    The numbers differ from tensor to tensor, so two that were exchanged are noticed.
    """
    state = {}
    for index, (name, tensor) in enumerate(_on_meta(arch).items()):
        number = 7 if name.endswith("num_batches_tracked") else 0.25 + index / 1024
        state[name] = torch.tensor(number, dtype=tensor.dtype).expand(tensor.shape)
    return state


@lru_cache(maxsize=4)
def real_state(arch: str, seed: int = 0) -> State:
    """Random weights with trained-looking statistics: what a forward pass needs to be told apart."""
    torch.manual_seed(seed)
    state = _with_classifier(arch).state_dict()
    for name, tensor in state.items():
        if family_of(arch).name != "resnet" and (name.endswith(("bias", "gamma")) or "norm" in name or ".grn." in name):
            tensor.copy_(torch.rand(tensor.shape) + 0.5 * name.endswith("weight") - 0.25)
        if name.endswith("running_mean"):
            tensor.normal_(0, 0.1)
        elif name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
        elif name.endswith("num_batches_tracked"):
            tensor.fill_(1000)
    return dict(state)


def torchvision_model(arch: str, state: Mapping[str, torch.Tensor], *, stride_in_1x1: bool = False) -> torch.nn.Module:
    """torchvision's network with these weights and without its classifier, in eval mode; Caffe's strides if asked."""
    model = _with_classifier(arch)
    model.load_state_dict(state)
    model.fc = torch.nn.Identity()  # what is no ResNet does not call it
    for stage in (model.layer2, model.layer3, model.layer4) if stride_in_1x1 else ():
        stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)
    return model.eval()


def without_fc(state: Mapping[str, torch.Tensor]) -> State:
    """The backbone's tensors."""
    return {name: tensor for name, tensor in state.items() if not name.startswith("fc.")}


def bare_norm(prefix: str, channels: int, affine: bool = True) -> State:
    """The tensors of one batch norm, for heads."""
    kinds = ("weight", "bias") * affine + ("running_mean", "running_var")
    norm: State = {f"{prefix}{kind}": torch.tensor(0.5).expand(channels) for kind in kinds}
    return norm | {f"{prefix}num_batches_tracked": torch.tensor(7)}


def filled(*shape: int) -> torch.Tensor:
    """A tensor that takes no room in a file."""
    return torch.tensor(0.5).expand(shape)


def linear(prefix: str, inputs: int, outputs: int, bias: bool = True) -> State:
    """The tensors of one linear layer, for heads."""
    layer = {f"{prefix}weight": filled(outputs, inputs)}
    return layer | {f"{prefix}bias": filled(outputs)} if bias else layer


def width_of(state: Mapping[str, torch.Tensor]) -> int:
    """Channels that the classifier, and with it every head, begins with."""
    return state["fc.weight"].shape[1]


def under(prefix: str, state: Mapping[str, torch.Tensor]) -> State:
    """Every name with the prefix before it."""
    return {prefix + name: tensor for name, tensor in state.items()}


def mlp(prefix: str, *sizes: int, bias: bool = True, between_bn: bool = False) -> State:
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


def training_state(state: Mapping[str, torch.Tensor]) -> Tree:
    """What torch trainers keep beside the weights: an epoch, and an optimiser with momentum tensors."""
    momentum = {index: {"momentum_buffer": tensor} for index, tensor in enumerate(list(state.values())[:3])}
    return {"epoch": 200, "optimizer": {"state": momentum, "param_groups": [{"lr": 0.03, "params": [0, 1, 2]}]}}


def slow_copy(state: Mapping[str, torch.Tensor]) -> State:
    """The moving average beside a network: here 2.0 everywhere, so that it cannot be taken for the network."""
    return {
        name: torch.tensor(2.0).expand(tensor.shape) if tensor.is_floating_point() else tensor
        for name, tensor in state.items()
    }


def write(tree: Tree, path: Path, container: str) -> Path:
    """Pack `tree` as a "zip", "legacy", "pickle" (or "pickle2", by protocol) or "safetensors" file, or "zip+gzip", …"""
    kind, _, packed = container.partition("+")
    if kind.startswith("pickle"):
        with _modules_of(tree):
            path.write_bytes(pickle.dumps(dict(tree), protocol=int(kind.removeprefix("pickle") or 4)))
    elif kind == "safetensors":
        from safetensors.torch import save_file

        save_file({name: tensor.contiguous().clone() for name, tensor in tree.items()}, str(path))
    else:
        with _modules_of(tree):
            plain = dict(tree) if hasattr(tree, "modules") else tree
            torch.save(plain, path, _use_new_zipfile_serialization=kind == "zip")
    if packed:
        path.write_bytes(gzip.compress(path.read_bytes(), compresslevel=1))
    return path


def _modules_of(tree: Tree) -> Any:
    """The context that a tree brings along whose pickle names modules that are not installed."""
    return getattr(tree, "modules", nullcontext)()


def in_memory(tree: Tree, **options: Any) -> Backbone:
    """The backbone of a file with these contents, without writing it."""
    tree = {key: as_tensors(value) for key, value in tree.items()}
    return backbone_from(Contents(tree, "memory", 0, "0" * 64), Path("file.pth"), **options)


def as_tensors(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: as_tensors(inner) for key, inner in value.items()}
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value


def refused(path: Path, *words: str, **options) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_backbone(path, **options)
    text = str(caught.value)
    for word in (path.name, *words):
        assert word in text, text
    return text


def with_changes(tmp_path: Path, **changed) -> Path:
    return write({**without_fc(cheap_state("resnet18")), **changed}, tmp_path / "changed.pth", "zip")


def zipped(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", "/"), content)
    return path
