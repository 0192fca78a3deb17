"""The runner: one record per run, found again, failures recorded, nothing half-written."""

import dataclasses
import json
import multiprocessing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from transfer.checkpoints.backbone import random_backbone
from transfer.checkpoints.lints import lints_of
from transfer.protocol import Protocol, flatten, recipe_differences
from transfer.record import read_record
from transfer.runner import do as run_once
from transfer.runner import only_one
from transfer.runtime.errors import TrainingError, UserError
from transfer.runtime.progress import Bar
from transfer.runtime.progress import read as read_progress
from transfer.task import Run, Task, TaskOutcome, load_task, task_names


@dataclass(frozen=True)
class Inner:
    lr: float = 0.02
    steps: tuple[int, ...] = (1, 2)


@dataclass(frozen=True)
class Recipe:
    inner: Inner = Inner()
    mode: str = "a"


@dataclass(frozen=True)
class Read:
    """Data of a sha256."""

    sha: str = "d" * 64
    differences: tuple[tuple[str, str, str], ...] = (("data", "theirs", "ours"),)

    @property
    def fingerprints(self):
        return {"train": {"name": "t", "sha256": self.sha, "images": 1, "boxes": 1}}


@dataclass(frozen=True, eq=False, kw_only=True)
class Doing(Task):
    """A task that does what it is given."""

    do: Callable[[Run], TaskOutcome]
    data_options = Read

    def load(self, options):
        return options

    def check(self, run):
        pass

    def run(self, run):
        return self.do(run)


def plan(do, *, seed=0, recipe=None, backbone=None, sha="d" * 64) -> Run:
    return Run(
        task_name="room.test",
        task=Doing(title="a test", primary="AP", published={"p": Protocol(Recipe), "other": Protocol(Recipe)}, do=do),
        protocol="p",
        recipe=recipe or Recipe(),
        backbone=backbone or random_backbone("resnet18", 0),
        label="ckpt",
        data=Read(sha),
        seed=seed,
        command="python -m transfer run room.test ckpt",
    )


def run(planned: Run, runs: Path, overwrite: bool = False):
    return run_once(dataclasses.replace(planned, runs=runs), overwrite)


class Engine:
    name = "mmdet"

    def versions(self):
        return {"mmdet": "3"}


def finish(context):
    (context.workdir / "weights").write_text("x", encoding="utf-8")
    return TaskOutcome({"AP": 50.0 + context.seed}, notes=("a note",))


def records_in(folder: Path) -> list[Path]:
    return sorted((folder / "records").rglob("*"))[1:]


def test_a_run_leaves_one_record_and_is_found_again(tmp_path):
    calls = []

    def do(context):
        calls.append(context.seed)
        return finish(context)

    first = run(plan(do), tmp_path)
    again = run(plan(do), tmp_path)
    assert calls == [0]
    assert first == again
    assert first.metrics == {"AP": 50.0}
    assert len(records_in(tmp_path)) == 1
    assert read_record(records_in(tmp_path)[0]) == first
    assert {"what": "data", "protocol": "theirs", "run": "ours"} in first.differences
    run(plan(do), tmp_path, overwrite=True)
    assert calls == [0, 0]
    assert len(records_in(tmp_path)) == 1


def test_an_engines_run_of_two_processes_does_not_answer_for_one(tmp_path):
    def in_two(context):
        return TaskOutcome({"AP": 50.0}, notes=("2 processes",))

    run(dataclasses.replace(plan(in_two), engine=Engine()), tmp_path)
    with pytest.raises(UserError, match="by another number of processes") as error:
        run(dataclasses.replace(plan(finish), engine=Engine()), tmp_path)
    assert "2 processes, now 1" in str(error.value)
    run(dataclasses.replace(plan(in_two), seed=1), tmp_path)
    assert run(dataclasses.replace(plan(finish), seed=1), tmp_path).metrics == {
        "AP": 50.0
    }  # no engine: the same number


def test_a_run_sets_its_own_threads_and_records_its_conditions(tmp_path):
    seen = []

    def do(context):
        seen.append(torch.get_num_threads())
        return finish(context)

    torch.set_num_threads(3)  # as a machine or OMP_NUM_THREADS would
    record = run(plan(do), tmp_path)
    assert seen == [1]
    assert record.conditions["threads"] == 1
    assert record.conditions["instructions"] == torch.backends.cpu.get_cpu_capability()
    more = run(dataclasses.replace(plan(do, seed=1), threads=2), tmp_path)
    assert seen == [1, 2]
    assert more.conditions["threads"] == 2
    assert not [note for note in (*record.notes, *more.notes) if "threads" in note]


def test_a_reuse_under_other_conditions_says_each_in_a_line(tmp_path, caplog):
    first = run(dataclasses.replace(plan(finish), threads=2), tmp_path)
    caplog.clear()
    assert run(plan(finish), tmp_path) == first
    said = [entry.getMessage() for entry in caplog.records if entry.levelname == "WARNING"]
    assert "compared with that run: the number of CPU threads was 2 and is now 1" in said
    caplog.clear()
    assert run(dataclasses.replace(plan(finish), threads=2), tmp_path) == first
    assert "number of CPU threads" not in caplog.text


def test_a_run_by_auto_is_marked_until_its_protocol_is_asked_for_by_name(tmp_path):
    auto = dataclasses.replace(plan(finish), authors_own=True)
    assert run(auto, tmp_path).authors_own
    assert run(auto, tmp_path).authors_own
    assert not run(plan(finish), tmp_path).authors_own
    assert not read_record(records_in(tmp_path)[0]).authors_own
    assert not run(auto, tmp_path).authors_own


def test_what_an_attempt_left_is_taken_up_and_its_other_conditions_are_in_the_record(tmp_path):
    def fail(context):
        raise TrainingError("the power went")

    run(dataclasses.replace(plan(fail), threads=2), tmp_path)
    record = run(plan(finish), tmp_path)
    assert "begun under other conditions: the number of CPU threads was 2 and is now 1" in record.notes
    anew = run(plan(finish), tmp_path, overwrite=True)
    assert not [note for note in anew.notes if "conditions" in note]


def test_a_run_says_how_far_it_is_while_it_goes_on_and_not_afterwards(tmp_path):
    said = []

    def do(context):
        with Bar(3, unit="it", what="training") as bar:
            bar.update(2)
        said.append(read_progress(context.workdir / "progress.json"))
        if context.seed == 1:
            raise TrainingError("the power went")
        return finish(context)

    assert run(plan(do), tmp_path).status == "finished"
    assert run(plan(do, seed=1), tmp_path).status == "failed"
    assert [(found.what, found.done, found.total) for found in said] == [("training", 2, 3)] * 2
    assert not list(tmp_path.rglob("*progress.json*"))


def test_how_far_a_killed_attempt_was_is_no_unfinished_work(tmp_path):
    planned = dataclasses.replace(plan(finish), runs=tmp_path)
    planned.workdir.mkdir(parents=True)
    (planned.workdir / "progress.json").write_text("{}", encoding="utf-8")
    assert not [note for note in run(planned, tmp_path).notes if "conditions" in note]


def test_what_older_code_left_unfinished_was_made_under_conditions_that_nobody_knows(tmp_path):
    workdir = tmp_path / "work" / "room.test" / plan(finish).id
    workdir.mkdir(parents=True)
    (workdir / "checkpoint.pth").write_text("half way", encoding="utf-8")
    notes = run(plan(finish), tmp_path).notes
    assert "begun under other conditions: its threads, instruction set and arithmetic were not recorded" in notes


def test_conditions_that_a_task_changes_on_the_way_are_in_the_record(tmp_path):
    def do(context):
        torch.set_num_threads(2)
        return finish(context)

    record = run(plan(do), tmp_path)
    assert "changed while the run went on: the number of CPU threads was 1 and is now 2" in record.notes


def test_what_may_be_mistaken_about_the_weights_is_in_the_record(tmp_path):
    backbone = dataclasses.replace(random_backbone("resnet18", 0), same_padding=True, notes=("from elsewhere",))
    record = run(plan(finish, backbone=backbone.with_lints(lints_of(backbone))), tmp_path)
    assert "from elsewhere" in record.notes
    assert any(note.startswith("same-padding: ") for note in record.notes)


def test_seed_recipe_data_and_weights_each_give_another_run(tmp_path):
    base = plan(finish)
    others = [
        plan(finish, seed=1),
        plan(finish, recipe=Recipe(mode="b")),
        plan(finish, sha="e" * 64),
        plan(finish, backbone=random_backbone("resnet18", 1)),
        dataclasses.replace(base, engine=Engine()),
    ]
    ids = {p.id for p in [base, *others]}
    assert len(ids) == 6
    assert dataclasses.replace(base, label="another name", command="x", workers=3).id == base.id


@pytest.mark.parametrize("error", [TrainingError("the loss is nan", todo="lower it"), ZeroDivisionError("oops")])
def test_a_failure_is_recorded_and_tried_again(tmp_path, error):
    def fail(context):
        (context.workdir / "checkpoint").write_text("half way", encoding="utf-8")
        raise error

    failed = run(plan(fail), tmp_path)
    assert failed.status == "failed"
    assert failed.metrics == {}
    assert failed.failure["kind"] == type(error).__name__
    assert "Traceback" in failed.failure["traceback"]

    def resume(context):
        assert (context.workdir / "checkpoint").read_text(encoding="utf-8") == "half way"
        return finish(context)

    assert run(plan(resume), tmp_path).status == "finished"
    assert len(records_in(tmp_path)) == 1


def test_ctrl_c_leaves_no_record_but_what_a_resume_needs(tmp_path):
    def interrupted(context):
        (context.workdir / "checkpoint").write_text("half way", encoding="utf-8")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(plan(interrupted), tmp_path)
    assert not (tmp_path / "records").exists()
    assert list(tmp_path.rglob("checkpoint"))


def test_a_failing_overwrite_does_not_lose_the_finished_result(tmp_path):
    def fail(context):
        raise TrainingError("no")

    finished = run(plan(finish), tmp_path)
    assert run(plan(fail), tmp_path, overwrite=True).status == "failed"
    assert run(plan(fail), tmp_path) == finished


@pytest.mark.slow
def test_an_interrupted_overwrite_is_gone_on_with_whatever_is_typed_next(tmp_path):
    def interrupted(context):
        (context.workdir / "checkpoint").write_text("half way", encoding="utf-8")
        raise KeyboardInterrupt

    def resume(context):
        assert (context.workdir / "checkpoint").read_text(encoding="utf-8") == "half way"
        return TaskOutcome({"AP": 60.0})

    for again in (True, False):
        run(plan(finish), tmp_path / str(again))
        with pytest.raises(KeyboardInterrupt):
            run(plan(interrupted), tmp_path / str(again), overwrite=True)
        assert run(plan(resume), tmp_path / str(again), overwrite=again).metrics == {"AP": 60.0}
        assert run(plan(interrupted), tmp_path / str(again)).metrics == {"AP": 60.0}


def test_what_a_kill_left_half_written_is_removed(tmp_path):
    run(plan(finish), tmp_path)
    (workdir,) = (tmp_path / "work" / "room.test").iterdir()
    (workdir / ".checkpoint.pth.x.part").write_text("half", encoding="utf-8")
    run(plan(finish), tmp_path)
    assert not list(workdir.glob(".*.part"))


def test_a_finished_run_is_known_by_the_name_asked_for_last(tmp_path):
    run(plan(finish), tmp_path)
    assert run(dataclasses.replace(plan(finish), label="new"), tmp_path).label == "new"
    (path,) = records_in(tmp_path)
    assert read_record(path).label == "new"


def test_another_protocol_is_not_passed_over_in_silence(tmp_path, caplog):
    run(plan(finish), tmp_path)
    run(dataclasses.replace(plan(finish), protocol="other"), tmp_path)
    assert "protocol p, not other" in caplog.text


def test_overwrite_forgets_the_earlier_attempt(tmp_path):
    def do(context):
        assert not (context.workdir / "deep").exists()
        (context.workdir / "deep").mkdir()
        (context.workdir / "deep" / "file").write_text("x", encoding="utf-8")
        return finish(context)

    run(plan(do), tmp_path)
    run(plan(do), tmp_path, overwrite=True)


def hold(folder, ready, release):
    with only_one(Path(folder)):
        ready.set()
        release.wait(30)


def test_two_processes_cannot_do_the_same_run(tmp_path):
    spawn = multiprocessing.get_context("fork")
    ready, release = spawn.Event(), spawn.Event()
    other = spawn.Process(target=hold, args=(str(tmp_path), ready, release))
    other.start()
    assert ready.wait(30)
    with pytest.raises(UserError, match="another process"), only_one(tmp_path):
        pass
    release.set()
    other.join(30)
    with only_one(tmp_path):  # free again
        pass


def test_metrics_that_are_nan_are_a_failure(tmp_path):
    record = run(plan(lambda context: TaskOutcome({"AP": float("nan")})), tmp_path)
    assert record.status == "failed"
    assert record.metrics == {}
    assert "AP" in record.failure["message"]


def test_differences_name_nested_values():
    assert flatten(Recipe()) == {"inner.lr": 0.02, "inner.steps": (1, 2), "mode": "a"}
    assert recipe_differences(Recipe(), Recipe(Inner(lr=0.1))) == (("inner.lr", "0.02", "0.1"),)


def test_every_task_file_is_found_and_loads():
    names = task_names()
    assert "detection.voc" in names
    for name in names:
        task = load_task(name)
        assert task.primary
        assert task.protocols
        for _, recipe in task.presets.values():
            assert recipe_differences(next(iter(task.protocols.values())), recipe)
    with pytest.raises(UserError, match="no task is called"):
        load_task("detection.nonsense")


def test_records_are_json_that_anyone_can_read(tmp_path):
    run(plan(finish), tmp_path)
    content = json.loads(records_in(tmp_path)[0].read_text(encoding="utf-8"))
    assert content["recipe"] == {"inner": {"lr": 0.02, "steps": [1, 2]}, "mode": "a"}
