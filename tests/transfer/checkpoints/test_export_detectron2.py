"""Names and content of Detectron2 model files; needs no Detectron2."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from checkpoint_files import in_memory

from transfer.checkpoints.backbone import random_backbone
from transfer.checkpoints.families.resnet import ARCHITECTURES, expected_shapes, is_optional
from transfer.checkpoints.formats.detectron2 import content, detectron2_name, torchvision_name, write
from transfer.runtime.errors import CheckpointError

# The modules' names in detectron2/modeling/backbone/resnet.py; the engine's tests hold them against a built model.
KNOWN = {
    "conv1.weight": "stem.conv1.weight",
    "bn1.running_mean": "stem.conv1.norm.running_mean",
    "layer1.0.bn1.weight": "res2.0.conv1.norm.weight",
    "layer1.0.downsample.1.bias": "res2.0.shortcut.norm.bias",
    "layer2.3.conv3.weight": "res3.3.conv3.weight",
    "layer3.22.bn3.running_var": "res4.22.conv3.norm.running_var",
    "layer4.0.downsample.0.weight": "res5.0.shortcut.weight",
    "layer4.2.bn2.num_batches_tracked": "res5.2.conv2.norm.num_batches_tracked",
}


@pytest.mark.parametrize(("torchvision", "detectron2"), KNOWN.items())
def test_known_names(torchvision: str, detectron2: str) -> None:
    assert detectron2_name(torchvision) == detectron2
    assert torchvision_name(detectron2) == torchvision


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_names_map_one_to_one_and_back(arch: str) -> None:
    names = list(expected_shapes(arch))
    mapped = [detectron2_name(name) for name in names]
    assert len(set(mapped)) == len(names)
    assert [torchvision_name(name) for name in mapped] == names
    stages = {name.split(".")[0] for name in mapped}
    assert stages == {"stem", "res2", "res3", "res4", "res5"}


@pytest.mark.parametrize(
    "name",
    [
        "fc.weight",
        "layer5.0.conv1.weight",
        "layer1.0.downsample.2.weight",
        "conv1.bias",
        "module.conv1.weight",
        "stem.0.x",
    ],
)
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(CheckpointError, match="torchvision ResNet"):
        detectron2_name(name)


@pytest.mark.parametrize(
    "name", ["stem.fc.0.weight", "backbone.stem.conv1.weight", "res6.0.conv1.weight", "conv1.weight"]
)
def test_other_detectron2_names_are_refused(name: str) -> None:
    with pytest.raises(CheckpointError, match="Detectron2 ResNet"):
        torchvision_name(name)


@pytest.mark.parametrize(("arch", "tensors"), [("resnet18", 100), ("resnet50", 265)])
def test_round_trip_gives_the_same_tensors(arch: str, tensors: int, tmp_path: Path) -> None:
    backbone = random_backbone(arch, seed=3)
    path = tmp_path / "backbone.pkl"
    write(backbone, path)
    with path.open("rb") as file:
        written = pickle.load(file)
    assert written["matching_heuristics"] is True
    assert isinstance(written["__author__"], str)
    counted = [name for name in written["model"] if not is_optional(name)]
    assert len(counted) == tensors
    state = in_memory(written).state
    assert state.keys() == backbone.state.keys()
    for name, tensor in backbone.state.items():
        assert state[name].dtype == tensor.dtype
        assert torch.equal(state[name], tensor), name


def test_file_content_cannot_change_the_backbone() -> None:
    backbone = random_backbone("resnet18", seed=0)
    before = backbone.state["conv1.weight"].clone()
    with pytest.raises(ValueError, match="read-only"):
        content(backbone)["model"]["stem.conv1.weight"][:] = 0
    assert torch.equal(backbone.state["conv1.weight"], before)


@pytest.mark.slow
def test_neither_export_nor_engine_package_imports_detectron2() -> None:
    code = (
        "import sys; sys.modules['detectron2'] = None\n"
        "import transfer.checkpoints.formats.detectron2\n"
        "from detection.engines.detectron2 import ENGINE\n"
        "assert not any(name.startswith(('fvcore', 'detectron2.')) for name in sys.modules)\n"
        "print(ENGINE.name)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "detectron2"


def test_a_missing_detectron2_is_said_with_the_way_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from detection.engines.detectron2 import ENGINE

    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    sentence = ENGINE.missing()
    assert sentence is not None
    assert "not installed" in sentence
    assert "conda-forge" in sentence
    assert "DETECTRON2_WHEELS" in sentence
