"""A plan names exactly the runs that will be done, and says of each how it stands, from what lies on disk."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from noise_images import write_noise

from transfer.__main__ import main
from transfer.checkpoints.backbone import random_backbone
from transfer.classification.task import ClassificationTask
from transfer.record import read_record
from transfer.runtime.errors import CheckpointError, UserError
from transfer.runtime.files import locked
from transfer.suites.facts import Facts
from transfer.suites.plan import (
    CommonOptions,
    Planned,
    forget_ended,
    make_plan,
    note_ended,
    plan_file,
    read_plan,
    standing,
    write_plan,
)
from transfer.suites.suite import typed_suite

KNN = "transfer.knn --view.crop 32 --view.resize 32 --ks 20"
LINEAR = "finegrained.own_linear --view.crop 32 --view.resize 32"


@pytest.fixture
def images(tmp_path) -> Path:
    """24 training and 4 test images of two classes."""
    return write_noise(tmp_path / "images", 12, 2)


def planned(images: Path, *lines: str, checkpoints=("random:resnet18",), **typed) -> list[Planned]:
    runs = images.parent / "runs"
    words = ("--device", "cpu", "--image-folder", str(images), "--runs", str(runs))
    facts = Facts(runs / "suites" / "known.json")
    found = make_plan(typed_suite(lines), CommonOptions(checkpoints, words=words, **typed), facts)
    facts.save()
    return found


def test_a_plan_names_the_runs_that_are_done(images):
    runs = images.parent / "runs"
    plan = planned(images, KNN, LINEAR, checkpoints=("random:resnet18", "random:resnet18:1"), seeds=(1, 0))
    assert [(run.task, run.label, run.seed) for run in plan] == [
        *(("transfer.knn", label, 1) for label in ("random:resnet18", "random:resnet18:1")),  # draws nothing
        *((LINEAR.split()[0], label, seed) for label in ("random:resnet18", "random:resnet18:1") for seed in (1, 0)),
    ]
    assert len({run.id for run in plan}) == 6
    assert len({run.kind for run in plan}) == 2
    assert len({run.images for run in plan}) == 2
    plan = plan[2:]
    assert standing(plan[2], runs).state == "waiting"
    assert main(["run", *plan[2].words]) == 0
    assert standing(plan[2], runs).state == "done"
    record = read_record(runs / "records" / plan[2].task / f"{plan[2].id}.json")
    assert (record.label, record.seed) == ("random:resnet18:1", 1)
    assert [standing(run, runs).state for run in plan] == ["waiting", "waiting", "done", "waiting"]


def test_a_run_that_two_lines_ask_for_is_planned_once(images):
    plan = planned(images, KNN, f"{KNN} --temperature 0.07", f"{KNN} --temperature 0.1")
    assert [run.variant for run in plan] == ["", "--temperature 0.1"]


def test_missing_images_make_runs_impossible_and_no_others(images, tmp_path):
    plan = planned(images, KNN, f"transfer.voc07_svm --data-root {tmp_path}/nothing")
    states = [standing(run, images.parent / "runs") for run in plan]
    assert [state.state for state in states] == ["waiting", "impossible"]
    assert "found:" in states[1].reason or "to do:" in states[1].reason


@pytest.mark.slow
def test_a_checkpoint_that_a_task_cannot_take_stops_no_other(tmp_path):
    pytest.importorskip("mmdet")
    words = ("--device", "cpu", "--voc-root", str(tmp_path / "nothing"), "--preset", "smoke", "--runs", str(tmp_path))
    common = CommonOptions(("random:resnet18", "random:vit_tiny_patch16_224"), words=words)
    plan = make_plan(typed_suite(("detection.voc", "detection.voc_vitdet")), common, Facts(tmp_path / "known.json"))
    states = [standing(run, tmp_path) for run in plan]
    assert [state.state for state in states] == ["impossible"] * 4
    refused = ["not built on" in state.reason for state in states]
    assert refused == [False, True, True, False]  # the others lack their images


def test_what_a_run_would_refuse_is_refused_at_once(images, tmp_path, capsys):
    torch.save(dict(random_backbone("resnet18", 0).state), tmp_path / "a.pth")
    shutil.copy(tmp_path / "a.pth", tmp_path / "b.pth")
    with pytest.raises(UserError, match="the same weights"):
        planned(images, KNN, checkpoints=(str(tmp_path / "a.pth"), str(tmp_path / "b.pth")))
    with pytest.raises(CheckpointError, match=r"no\.pth"):
        planned(images, KNN, checkpoints=(str(tmp_path / "no.pth"),))
    with pytest.raises(UserError, match="two checkpoints would be called x"):
        planned(images, KNN, checkpoints=("random:resnet18", "random:resnet50"), labels=("x", "x"))
    with pytest.raises(UserError, match=r"transfer\.knn: no preset is called 'no'"):
        planned(images, f"{KNN} --preset no")
    with pytest.raises(SystemExit):
        planned(images, f"{KNN} --nonsense 3")
    assert "in the suite's line: transfer.knn" in capsys.readouterr().err


def test_images_and_checkpoints_are_read_again_only_when_they_have_changed(images, tmp_path, monkeypatch):
    file = tmp_path / "a.pth"
    torch.save(dict(random_backbone("resnet18", 0).state), file)
    first = planned(images, KNN, checkpoints=(str(file),))
    read = []
    load = ClassificationTask.load
    monkeypatch.setattr(ClassificationTask, "load", lambda task, options: read.append("images") or load(task, options))
    monkeypatch.setattr("transfer.suites.facts.read_one", lambda name, options: pytest.fail("read again"))
    assert planned(images, KNN, checkpoints=(str(file),)) == first
    assert not read
    (images / "train" / "one" / "0.png").rename(images / "train" / "one" / "a.png")
    assert planned(images, KNN, checkpoints=(str(file),)) != first
    assert read == ["images"]
    monkeypatch.undo()
    torch.save(dict(random_backbone("resnet18", 1).state), file)
    assert planned(images, KNN, checkpoints=(str(file),))[0].id != first[0].id
    Path(images.parent / "runs" / "suites" / "known.json").write_text("{", encoding="utf-8")
    assert planned(images, KNN, checkpoints=(str(file),))


def test_how_a_run_stands_is_read_from_disk(tmp_path):
    run = Planned("transfer.knn", "a", 0, ("transfer.knn", "a"), id="0123456789abcdef")
    workdir, record = tmp_path / "work" / run.task / run.id, tmp_path / "records" / run.task / f"{run.id}.json"
    assert standing(run, tmp_path).state == "waiting"
    with locked(workdir, "in use", "wait"):
        assert standing(run, tmp_path).state == "running"
    assert standing(run, tmp_path).state == "waiting"
    note_ended(tmp_path, run, "over a limit")
    assert (standing(run, tmp_path).state, standing(run, tmp_path).reason) == ("failed", "over a limit")
    forget_ended(tmp_path, run)
    assert standing(run, tmp_path).state == "waiting"
    record.parent.mkdir(parents=True)
    for content, state in (
        ({"status": "finished", "checkpoint": {"label": "a"}}, "done"),
        ({"status": "finished", "checkpoint": {"label": "b"}}, "waiting"),  # to be given its new name
        ({"status": "failed", "failure": {"message": "a fault"}}, "failed"),
    ):
        record.write_text(json.dumps(content), encoding="utf-8")
        assert standing(run, tmp_path).state == state
    record.write_text("{", encoding="utf-8")
    assert "cannot be read" in standing(run, tmp_path).reason
    record.write_text(json.dumps({"status": "finished", "checkpoint": {"label": "a"}}), encoding="utf-8")
    (workdir / "redo").touch()
    assert standing(run, tmp_path).state == "waiting"


def test_a_plan_is_found_again_by_another_process(tmp_path):
    run = Planned("transfer.knn", "a", 0, ("transfer.knn", "a"), id="0" * 16, kind="k", variant="--ks 3")
    file = plan_file(tmp_path, "own")
    write_plan(file, "title", [run])
    assert read_plan(file) == ("title", [run])
    file.write_text(json.dumps({"version": 99}), encoding="utf-8")
    with pytest.raises(UserError, match="cannot read the plan"):
        read_plan(file)


def test_a_folder_that_cannot_be_written_is_one_message(images):
    (images.parent / "runs").write_text("a file in its place", encoding="utf-8")
    with pytest.raises(UserError, match="cannot write"):
        planned(images, KNN)
