"""What the code of an earlier commit left on disk is read, converted and taken up by the code of today; see README."""

from __future__ import annotations

import json
import logging
import lzma
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import sgd_processes
import torch
import torchvision
from tiny_encoder import TinyEncoder, write_nine

from pretrain.machine import Machine
from pretrain.methods.msbreg import Settings
from pretrain.recipe import Recipe
from pretrain.train import pretrain
from results import __main__ as results
from results import frame
from transfer.__main__ import main
from transfer.checkpoints.read import read_backbone
from transfer.record import read_record
from transfer.runtime.errors import TrainingError

GOLDEN = Path(__file__).parent
RECORDS = sorted((GOLDEN / "records").glob("*/*.json"))
COMMIT = "1e1e96a1a97f7a22558adeb48ab2085663abe3e1"


def unpack(name: str, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(lzma.decompress((GOLDEN / f"{name}.xz").read_bytes()))
    return path


def assert_ended_as_kept(weights: Mapping[str, torch.Tensor], kept: Path) -> None:
    """Against the sums and sums of squares of the training that nothing interrupted, under the earlier code."""
    expected = json.loads(kept.read_text(encoding="utf-8"))
    assert weights.keys() == expected.keys()
    for name, tensor in weights.items():
        values = tensor.double()
        found = [values.sum().item(), values.square().sum().item()]
        assert found == pytest.approx(expected[name], rel=1e-4, abs=1e-4), name


@pytest.fixture
def records(tmp_path: Path) -> Path:
    """A copy: an index is written beside records that are read."""
    return Path(shutil.copytree(GOLDEN / "records", tmp_path / "records"))


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.parent.name)
def test_a_record_is_read_with_every_value(path: Path) -> None:
    record, written = read_record(path), json.loads(path.read_text(encoding="utf-8"))
    assert (record.git_commit, record.git_dirty, record.status) == (COMMIT, False, "finished")
    assert written.pop("schema") == 3
    assert {name: getattr(record, name) for name in written} == written


def test_records_are_tabulated(records: Path) -> None:
    found = frame.load(records)
    assert found.attrs["problems"] == ()
    expected = {"detection.voc": 1e-3, "finegrained.own_linear": 100.0, "transfer.knn": 100.0}
    assert dict(zip(found["task"], found["value"], strict=True)) == pytest.approx(expected, abs=0.01)
    assert found["proven"].all()


def test_the_table_shows_every_record(
    records: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["results", "table", "--all", "--records", str(records)])
    assert results.main() == 0
    shown = capsys.readouterr().out
    assert shown.count("random:resnet18") == len(RECORDS) == 3


@pytest.mark.parametrize("kind", sgd_processes.KINDS)
def test_an_sgd_training_is_taken_up_and_ends_as_it_would_have(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    unpack(f"{kind}/fit.pth", tmp_path / "fit.pth")
    with caplog.at_level(logging.INFO):
        fit = sgd_processes.train(kind, tmp_path)
    assert f"is resumed at step 2 of {sgd_processes.STEPS[kind]}" in caplog.text
    assert_ended_as_kept(sgd_processes.weights(fit), GOLDEN / kind / "weights.json")


PRETRAINING = (
    "msbreg",
    Recipe(arch="resnet18", crop=32, steps=6, warmup_steps=1, batch=4, optimizer="sgd", lr=0.5),
    Settings(views=2, hidden=16, dimensions=8),
    Machine(device="cpu", workers=0, log_every=1, save_every=2),
)


def test_a_pretraining_is_taken_up_and_ends_as_it_would_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torchvision.models, "get_model", lambda *_, **__: TinyEncoder())
    unpack("pretraining/tiny.pth", tmp_path / "out" / "checkpoint.pth")
    with caplog.at_level(logging.INFO):
        path = pretrain(write_nine(tmp_path / "images"), tmp_path / "out", *PRETRAINING)
    assert "at step 4 of 6" in caplog.text
    assert_ended_as_kept(torch.load(path, weights_only=True)["online"], GOLDEN / "pretraining" / "weights.json")


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack("pretraining/resnet18.pth", tmp_path_factory.mktemp("pretrained") / "checkpoint.pth")


@pytest.mark.parametrize(("words", "branch"), [([], "online"), (["--branch", "target"], "target")])
def test_a_pretraining_checkpoint_is_inspected(
    pretrained: Path, capsys: pytest.CaptureFixture[str], words: list[str], branch: str
) -> None:
    assert main(["inspect", str(pretrained), *words]) == 0
    shown = capsys.readouterr().out
    assert "resnet18" in shown
    assert branch in shown


def test_a_pretraining_checkpoint_is_read_and_converted(pretrained: Path, tmp_path: Path) -> None:
    state = torch.load(pretrained, weights_only=True)["online"]
    encoder = {name.removeprefix("encoder."): value for name, value in state.items() if name.startswith("encoder.")}
    backbone = read_backbone(pretrained)
    assert (backbone.arch, backbone.source.format) == ("resnet18", "msbreg")
    assert main(["convert", str(pretrained), "--to", "torchvision", "-o", str(tmp_path / "out.pth")]) == 0
    written = torch.load(tmp_path / "out.pth", weights_only=True)
    for state in (backbone.state, written):
        assert state.keys() == encoder.keys()
        assert all(torch.equal(state[name], value) for name, value in encoder.items())


@pytest.mark.slow
def test_a_detector_training_is_taken_up_or_refused_with_one_message(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Refused, and left as it is, where recipe or layout are no longer those of the earlier commit."""
    pytest.importorskip("mmdet")
    import mmdet_toy

    job = mmdet_toy.job_of(mmdet_toy.toy_dataset(tmp_path), tmp_path / "run", mmdet_toy.FAMILIES["faster_rcnn fpn"])
    path = unpack("mmdet/checkpoint.pth", job.workdir / "checkpoint.pth")
    before = path.read_bytes()
    refused = ""
    with caplog.at_level(logging.INFO):
        try:
            mmdet_toy.ENGINE.run(job)
        except TrainingError as error:
            refused = str(error)
    if refused:
        assert refused.startswith(str(path))
        assert "to do: delete the file to start anew" in refused
        assert path.read_bytes() == before
    else:
        assert "at iteration 4" in caplog.text
