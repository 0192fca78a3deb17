"""Files whose backbone is called `backbone.`: which toolkit they go to, and what their trainers pickle beside it."""

from __future__ import annotations

import argparse
import sys
import types

import checkpoint_files as files
import pytest
import torch
from releases import all_releases
from releases.lightning_files import lightning

from transfer.checkpoints.formats import recognised
from transfer.checkpoints.read import read_backbone
from transfer.runtime.errors import CheckpointError

BACKBONE = files.under("backbone.", files.without_fc(files.cheap_state("resnet18")))
META = {"mmengine_version": "0.10.7"}


@pytest.mark.parametrize(
    ("beside", "entries", "owner"),
    [
        ((), {}, "backbone"),
        ((), {"pytorch-lightning_version": "2.0"}, "backbone"),
        (("projector.0.weight",), {}, "backbone"),
        (("classifier.weight",), {}, "solo_learn"),
        (("momentum_backbone.conv1.weight",), {}, "solo_learn"),
        (("classifier.weight", "projection_head.layers.0.weight"), {}, "lightly"),
        (("student_backbone.conv1.weight",), {}, "lightly"),
        ((), {"meta": META}, "mmselfsup"),
        ((), {"meta": {"epoch": 3}}, "backbone"),
        (("neck.fc0.weight",), {}, "mmselfsup"),
        (("classifier.weight",), {"meta": META}, "mmselfsup"),
        (("projector.0.weight",), {"hyper_parameters": {"system.working_dir": "/"}}, "stable_pretraining"),
        (("callbacks_modules.probe.weight", "classifier.weight"), {}, "stable_pretraining"),
        (("callbacks_modules.probe.weight",), {"meta": META}, "stable_pretraining"),
    ],
)
def test_the_most_telling_clue_decides(beside, entries, owner):
    weights = BACKBONE | {name: torch.zeros(1) for name in beside}
    assert recognised({"state_dict": weights, **entries}) == [owner]


def test_other_files_are_none_of_the_family():
    assert recognised(files.cheap_state("resnet18")) == ["torchvision"]
    assert recognised({"state_dict": {"encoder.layer1.0.conv1.weight": torch.zeros(1)}}) == ["prefix"]


def test_the_fallback_says_that_nobody_signed_the_file():
    backbone = files.in_memory({"state_dict": dict(BACKBONE)})
    assert any("nothing in the file says which toolkit wrote it" in note for note in backbone.notes)


def test_a_second_backbone_inside_a_head_is_refused_by_name():
    hidden = {name.replace("backbone.", "head.teacher.", 1): value for name, value in BACKBONE.items()}
    with pytest.raises(CheckpointError, match=r"head\.teacher\.layer1"):
        files.in_memory({"state_dict": BACKBONE | hidden})


def test_a_file_that_mmengine_saved_is_read(tmp_path):
    """Its HistoryBuffers pickle numpy arrays, and their own methods by way of getattr."""
    from mmengine.logging import MessageHub
    from mmengine.runner.checkpoint import save_checkpoint

    hub = MessageHub("test")
    hub.update_scalar("train/loss", 0.5)
    hub.update_info("iter", 3)
    tree = all_releases()["mmselfsup_byol"].build(files.cheap_state("resnet18"))
    save_checkpoint(tree | {"message_hub": hub.state_dict()}, str(tmp_path / "epoch_1.pth"))
    assert b"HistoryBuffer" in (tmp_path / "epoch_1.pth").read_bytes()
    backbone = read_backbone(tmp_path / "epoch_1.pth")
    assert backbone.source.format == "mmselfsup"


def test_a_file_that_timms_trainer_saved_is_read(tmp_path):
    import timm
    from timm.utils import CheckpointSaver

    torch.manual_seed(0)
    model, average = (timm.create_model("resnet18", num_classes=10) for _ in range(2))
    saver = CheckpointSaver(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
        args=argparse.Namespace(model="resnet18", lr=0.1),
        model_ema=types.SimpleNamespace(module=average),
        checkpoint_dir=str(tmp_path),
        recovery_dir=str(tmp_path),
    )
    saver.save_checkpoint(3, metric=71.5)
    for branch, network in (("ema", average), ("model", model)):
        backbone = read_backbone(tmp_path / "last.pth.tar", branch=branch)
        assert (backbone.source.format, backbone.arch) == ("timm", "resnet18")
        assert all(torch.equal(backbone.state[name], network.state_dict()[name]) for name in backbone.state)
    assert read_backbone(tmp_path / "last.pth.tar").source.branch == "ema"


def pickled_class(monkeypatch, name: str, base: type = object) -> type:
    """A class that pickles under a library's name, without the library."""
    module, _, short = name.rpartition(".")
    for index in range(len(module.split("."))):
        part = ".".join(module.split(".")[: index + 1])
        monkeypatch.setitem(sys.modules, part, types.ModuleType(part))
    made = type(short, (base,), {"__module__": module, "__qualname__": short})
    setattr(sys.modules[module], short, made)
    return made


@pytest.mark.parametrize("zipped", [True, False])
def test_what_early_lightning_pickled_is_read(monkeypatch, tmp_path, zipped):
    """Until 1.4 a callback's class was the key of its state."""
    callback = pickled_class(monkeypatch, "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint")
    settings = pickled_class(monkeypatch, "pytorch_lightning.utilities.parsing.AttributeDict", dict)
    tree = lightning(
        dict(BACKBONE), callbacks={callback: {"best_model_score": torch.zeros(())}}, hyper_parameters=settings(lr=0.1)
    )
    torch.save(tree, tmp_path / "epoch.ckpt", _use_new_zipfile_serialization=zipped)
    assert read_backbone(tmp_path / "epoch.ckpt").source.format == "backbone"


def test_getattr_answers_for_nothing_but_history_buffers(monkeypatch, tmp_path):
    class Asks:
        def __reduce__(self):
            return getattr, (pickled, "get")

    pickled = pickled_class(monkeypatch, "mmengine.logging.history_buffer.HistoryBuffer")
    pickled.get = None
    torch.save({"state_dict": dict(BACKBONE), "log": Asks()}, tmp_path / "good.pth")
    assert read_backbone(tmp_path / "good.pth").source.format == "backbone"
    pickled = dict  # what a harmless name may stand for elsewhere
    torch.save({"state_dict": dict(BACKBONE), "log": Asks()}, tmp_path / "evil.pth")
    with pytest.raises(CheckpointError, match=r"wants to import builtins\.getattr"):
        read_backbone(tmp_path / "evil.pth")
