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
    for name in task_names():
        assert f"\n{name} " in f"\n{listed}"
    assert "top1_k20" in listed
    assert main(["tasks", "transfer.knn"]) == 0
    assert "protocols: dino; primary metric: top1_k20" in capsys.readouterr().out


def said_of(name, capsys) -> dict[str, str]:
    assert main(["tasks", name]) == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    return {key: text.strip() for key, _, text in (line.partition(":") for line in lines)}


def test_a_task_says_where_its_protocol_is_from_and_how_long_it_takes_where_a_source_tells(capsys):
    knn = said_of("transfer.knn", capsys)
    assert knn["sources"] == "dino from facebookresearch/dino (8 values)"
    assert knn["hours"].startswith("not known")
    assert "imagenet/train" in knn["data"]
    # the zoo's 0.551 s an iteration, 24,000 iterations, and its own price of trained batch norms
    voc = said_of("detection.voc", capsys)
    hours = 24_000 * 0.551 * (0.345 / 0.261) / 3600
    assert voc["hours"].startswith(f"about {hours:.1f} on 8 × V100, not measured here: Detectron2's MODEL_ZOO.md")
    assert "MoCo, Base-RCNN-C4-BN.yaml (8 values)" in voc["sources"]
    assert said_of("detection.coco_fcos", capsys)["hours"].startswith("not known")
