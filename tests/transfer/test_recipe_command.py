"""`python -m transfer recipe` and `tasks`: what is said of a protocol, and how a wrong name is answered."""

from transfer.__main__ import main
from transfer.cli import recipe_command
from transfer.protocol import flatten
from transfer.task import load_task, task_names


def test_every_value_stands_beside_its_source():
    text = recipe_command(["transfer.voc07_svm", "--protocol", "vissl"])
    for key in flatten(load_task("transfer.voc07_svm").protocols["vissl"]):
        (line,) = [line for line in text.splitlines() if line.strip().startswith(f"{key} ")]
        assert "facebookresearch/vissl" in line


def test_a_preset_is_shown_as_its_differences():
    text = recipe_command(["finegrained.pets_linear", "--preset", "cpu"])
    assert "view.crop" in text
    assert "128  (protocol: 224)" in text
    assert "penalties" not in text


def test_a_protocol_that_is_not_there_lists_those_that_are(capsys):
    assert main(["recipe", "transfer.knn", "--protocol", "dinosaur"]) == 2
    assert "choose one of dino" in capsys.readouterr().err


def test_a_mistyped_task_is_guessed(capsys):
    assert main(["recipe", "transfer.knm"]) == 2
    assert "perhaps transfer.knn" in capsys.readouterr().err


def test_tasks_lists_all_and_describes_one(capsys):
    assert main(["tasks"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in task_names())
    assert main(["tasks", "transfer.knn"]) == 0
    assert "protocols: dino; primary metric: top1_k20" in capsys.readouterr().out
