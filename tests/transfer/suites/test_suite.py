"""Suites as files and as typed: every line means what would be typed, and what no suite says is refused."""

import pytest

from transfer.cli import GPU_GIGABYTES, gpu_gigabytes, understood
from transfer.runtime.errors import UserError
from transfer.suites.command import SuiteOptions, suite_command
from transfer.suites.suite import TaskLine, names, read_suite, typed_suite

FILE = """
title = "Two tasks"
seeds = [0, 1]
[options]
preset = "cpu"
[[runs]]
task = "transfer.knn"
seeds = [3]
image_folder = "$SETS/a b"
ks = [10, 20]
[[runs]]
task = "detection.voc"
preset = "smoke"
clip-boxes = true
"""


def written(tmp_path, text: str):
    file = tmp_path / "own.toml"
    file.write_text(text, encoding="utf-8")
    return read_suite(str(file))


def test_a_file_is_lines_as_they_would_be_typed(tmp_path, monkeypatch):
    monkeypatch.setenv("SETS", "/sets")
    suite = written(tmp_path, FILE)
    assert (suite.name, suite.title, suite.seeds) == ("own", "Two tasks", (0, 1))
    assert suite.lines == (
        TaskLine("transfer.knn", ("--preset", "cpu", "--image-folder", "/sets/a b", "--ks", "10", "20"), (3,)),
        TaskLine("detection.voc", ("--preset", "smoke", "--clip-boxes")),
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("title = 'a'", r"\[\[runs\]\]"),
        ("title = 'a'\nruns = []", r"\[\[runs\]\]"),
        ("runs = [{task = 'transfer.knn'}]", "title"),
        ("title = 'a'\nname = 'b'\nruns = [{task = 'transfer.knn'}]", "the file has name"),
        ("title = 'a'\nruns = [{preset = 'cpu'}]", "run 1 names no task"),
        ("title = 'a'\nruns = [{task = 'transfer.knn', seeds = 3}]", "seeds = 3"),
        ("title = 'a'\nruns = [{task = 'transfer.knn', seeds = [-1]}]", r"seeds = \[-1\]"),
        ("title = 'a'\nruns = [{task = 'transfer.knn', runs = 'x'}]", "--runs"),
        ("title = 'a'\nruns = [{task = 'transfer.knn', preset = {}}]", "no option's value"),
        ("title = 'a'\nruns = [{task = 'transfer.knn', csv = '$NOWHERE_SET/x'}]", r"\$NOWHERE_SET"),
        ("title = ", "no TOML"),
    ],
)
def test_what_no_suite_says_is_refused_by_name(tmp_path, text, said):
    with pytest.raises(UserError, match=said):
        written(tmp_path, text)


def test_a_suite_that_is_not_there_is_answered_with_those_that_are():
    with pytest.raises(UserError) as caught:
        read_suite("papers")
    assert all(name in str(caught.value) for name in names())


def test_typed_tasks_bring_their_options_along():
    typed = ["transfer.knn", "detection.voc --preset smoke --voc-root '/a b'"]
    assert typed_suite(typed).lines == (
        TaskLine("transfer.knn"),
        TaskLine("detection.voc", ("--preset", "smoke", "--voc-root", "/a b")),
    )
    assert typed_suite(typed).name == typed_suite(list(typed)).name
    assert typed_suite(typed).name != typed_suite(typed[:1]).name
    for line, said in (("--preset cpu", "no task"), ("a 'b", "cannot read"), ("transfer.knn --seeds 1", "--seeds")):
        with pytest.raises(UserError, match=said):
            typed_suite([line])


@pytest.mark.parametrize("name", names())
def test_every_line_of_the_suites_that_come_along_is_understood(name, monkeypatch):
    monkeypatch.setenv("SETS", "/sets")
    monkeypatch.setenv("TOY", "/toy")
    for line in read_suite(name).lines:
        typed = understood([line.task, "random:resnet50", *line.words, "--device", "cpu"])
        assert typed.name == line.task


def test_the_papers_suite_has_the_tasks_that_the_abstract_names():
    tasks = [line.task for line in read_suite("paper").lines]
    for task in ("imagenet_linear", "imagenet_semi_1", "imagenet_semi_10", "places205_linear", "voc07_svm"):
        assert f"transfer.{task}" in tasks
    assert {"finegrained.inat18_linear", "detection.voc", "detection.coco_fpn", "segmentation.coco_fpn"} <= {*tasks}
    assert sum(task.startswith("finegrained.") for task in tasks) >= 10


class Gpus:
    """So many GB each, as PyTorch would tell."""

    def __init__(self, monkeypatch, *gigabytes: float, visible: str | None = None) -> None:
        monkeypatch.setattr("torch.cuda.is_available", lambda: bool(gigabytes))
        monkeypatch.setattr("transfer.suites.slots.in_a_process", lambda ask: list(gigabytes))
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if visible is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    def slots(self, device: str = "cuda", **options) -> list[str]:
        found = SuiteOptions(("random:resnet18",), **options).slots(device)
        return [slot.environment.get("CUDA_VISIBLE_DEVICES", "") for slot in found]


def test_runs_go_one_to_a_gpu_or_as_asked(monkeypatch):
    gpus = Gpus(monkeypatch, 80, 80, 80.5, 80)
    assert gpus.slots() == ["0", "1", "2", "3"]
    assert gpus.slots(gpus=(1, 3)) == ["1", "3"]
    assert gpus.slots(per_gpu=2, gpus=(0, 2)) == ["0", "2", "0", "2"]
    assert gpus.slots(processes=2) == ["0,1", "2,3"]
    assert gpus.slots(processes=3) == ["0,1,2"]
    assert gpus.slots("cpu", jobs=2) == ["", ""]
    for options, said in (
        ({"gpus": (4,)}, "no GPU 4"),
        ({"processes": 5}, "--processes 5"),
        ({"jobs": 2}, "--jobs 2 on GPUs"),
        ({"device": "cpu", "gpus": (0,)}, "--gpus on a CPU"),
        ({"device": "cpu", "per_gpu": 2}, "--per-gpu on a CPU"),
    ):
        with pytest.raises(UserError, match=said):
            gpus.slots(**options)


def test_recipes_are_fitted_to_the_memory_that_each_run_has(monkeypatch):
    gpus = Gpus(monkeypatch, 24, 80, 80)
    with pytest.raises(UserError, match="unequal memory"):
        gpus.slots()
    slots = SuiteOptions(("random:resnet18",), gpus=(1, 2), per_gpu=2).slots("cuda")
    assert {slot.environment[GPU_GIGABYTES] for slot in slots} == {"40.00"}
    monkeypatch.setenv(GPU_GIGABYTES, "40.00")
    assert gpu_gigabytes() == 40


def test_gpus_are_those_that_this_process_may_use(monkeypatch):
    assert Gpus(monkeypatch, 80, 80, visible="5,GPU-ab12").slots() == ["5", "GPU-ab12"]
    with pytest.raises(UserError, match="sees no GPU"):
        Gpus(monkeypatch).slots()


def test_the_suites_own_options_are_refused_wherever_else_they_stand(tmp_path, capsys):
    with pytest.raises(UserError, match="--overwrite"):
        written(tmp_path, "title = 'a'\noptions = {overwrite = true}\nruns = [{task = 'transfer.knn'}]")
    typed = ["random:resnet18", "--tasks", "transfer.knn", "--runs", str(tmp_path)]
    with pytest.raises(UserError, match="--seeds"):
        suite_command([*typed, "--", "--seeds", "3"])
    with pytest.raises(SystemExit):
        suite_command([*typed, "--image-folder", "x"])
    assert "behind a lone --" in capsys.readouterr().err
    with pytest.raises(UserError) as caught:
        suite_command(["--tasks", "transfer.knn", "random:resnet18"])
    assert "before the options" in caught.value.todo
