"""Detectors on COCO's layout end to end on toy data: `python -m transfer run detection.coco_…`, and wrong input."""

import json

import pytest
from coco_runs import small_copy, tiny

from transfer.__main__ import main
from transfer.record import read_record

ENGINES = [
    pytest.param("mmdet"),
    pytest.param("detectron2", marks=pytest.mark.detectron2),
]


@pytest.fixture
def coco(toy, tmp_path):
    """A private copy of the toy set, with four images to predict on."""
    return small_copy(toy, tmp_path)


def finished(runs, task):
    (path,) = (runs / "records" / task).glob("*.json")
    record = read_record(path)
    assert record.status == "finished", record.failure
    return record


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("word", ["c4", "fpn", "retinanet", "fcos"])
def test_every_detector_goes_from_a_checkpoint_to_a_record(engine, word, coco, tmp_path):
    pytest.importorskip(engine)
    runs = tmp_path / "runs"
    arguments = tiny(coco, runs, "--engine", engine, regions=word in ("c4", "fpn"), word=word)
    assert main(["run", f"detection.coco_{word}", "random:resnet18", *arguments]) == 0
    record = finished(runs, f"detection.coco_{word}")
    assert {"AP", "AP50", "AP75", "voc_AP", "voc_AP50"} <= set(record.metrics)
    assert record.primary_metric == "AP"
    assert record.verification["tensors"] == 100
    assert not any(name.startswith("mask") for name in record.metrics)


@pytest.mark.slow
def test_a_part_of_the_annotations_is_a_run_and_a_difference_of_its_own(coco, tmp_path):
    pytest.importorskip("mmdet")
    runs = tmp_path / "runs"
    arguments = tiny(coco, runs, "--engine", "mmdet", "--fraction", "0.1", iterations=0)
    assert main(["run", "detection.coco_fpn", "random:resnet18", *arguments]) == 0
    record = finished(runs, "detection.coco_fpn")
    assert record.data["train"]["images"] == 6  # of 60
    assert ("training images", "10 % (seed 0)") in {(d["what"], d["run"]) for d in record.differences}


@pytest.mark.slow
def test_evaluations_on_the_way_are_in_the_curve_and_change_nothing(coco, tmp_path):
    pytest.importorskip("mmdet")
    found = {}
    for every in (0, 2):
        runs = tmp_path / f"runs{every}"
        arguments = tiny(coco, runs, "--engine", "mmdet", "--detector.evaluate-every", str(every))
        assert main(["run", "detection.coco_fpn", "random:resnet18", *arguments]) == 0
        record = finished(runs, "detection.coco_fpn")
        workdir = runs / "work" / "detection.coco_fpn" / record.run_id
        rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        found[every] = record.metrics, [row["step"] for row in rows if "test/AP" in row]
    assert found[0] == (found[2][0], [])
    assert found[2][1][0] == 2


@pytest.mark.slow
def test_any_set_in_voc_layout_serves_too(toy, tmp_path):
    pytest.importorskip("mmdet")
    runs = tmp_path / "runs"
    base = tiny(toy / "coco", runs, "--engine", "mmdet", iterations=0)
    at = base.index("--train-json")
    data = ["--voc-root", str(toy / "voc"), "--train", "train", "--test", "val"]
    assert main(["run", "detection.coco_fpn", "random:resnet18", *base[:at], *data, *base[at + 8 :]]) == 0
    assert finished(runs, "detection.coco_fpn").data["train"]["name"] == "voc_train"


def spoil(case, coco):
    """Damage the training annotations; returns words that the message must have."""
    path = coco / "annotations" / "instances_train2017.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    first = content["annotations"][0]
    if case == "no JSON":
        path.write_text(path.read_text(encoding="utf-8")[:200], encoding="utf-8")
        return path.name
    if case == "image missing":
        (coco / "train2017" / content["images"][0]["file_name"]).unlink()
        return content["images"][0]["file_name"]
    if case == "unknown category":
        first["category_id"] = 99
    if case == "unknown image":
        first["image_id"] = 10**6
    if case == "duplicate id":
        content["annotations"][1]["id"] = first["id"]
    if case == "box outside":
        first["bbox"][2] = 10**5
    if case == "category missing in the test file":
        test = coco / "annotations" / "instances_val2017.json"
        other = json.loads(test.read_text(encoding="utf-8"))
        gone = other["categories"].pop()
        other["annotations"] = [a for a in other["annotations"] if a["category_id"] != gone["id"]]
        test.write_text(json.dumps(other), encoding="utf-8")
        return gone["name"]
    path.write_text(json.dumps(content), encoding="utf-8")
    return str(first["id"])


@pytest.mark.parametrize(
    "case",
    [
        *("no JSON", "image missing", "category missing in the test file"),
        *(pytest.param(case, marks=pytest.mark.slow) for case in ("unknown category", "unknown image")),
        *(pytest.param(case, marks=pytest.mark.slow) for case in ("duplicate id", "box outside")),
    ],
)
def test_bad_annotations_get_one_clear_message(case, coco, tmp_path, capsys):
    word = spoil(case, coco)
    runs = tmp_path / "runs"
    assert main(["run", "detection.coco_fpn", "random:resnet18", *tiny(coco, runs, "--engine", "mmdet")]) == 2
    err = capsys.readouterr().err
    assert word in err
    assert "Traceback" not in err
    assert not runs.exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--voc-root", "x"], "both name the data"),
        (["--fraction", "0"], "fraction"),
        (["--fraction", "1.5"], "fraction"),
        (["--overfit", "9999"], "too few images"),
        (["--overfit", "-3"], "give a number of images"),
    ],
)
def test_bad_options_get_one_clear_message(more, message, coco, tmp_path, capsys):
    if more[0] == "--voc-root":
        more = [*more, "--train", "a", "--test", "b"]
    runs = tmp_path / "runs"
    status = main(["run", "detection.coco_retinanet", "random:resnet18", *tiny(coco, runs, *more, regions=False)])
    assert status == 2
    assert message in capsys.readouterr().err
    assert not runs.exists()


def test_what_a_detector_does_not_read_is_no_option_of_its_task(coco, tmp_path, capsys):
    typed = tiny(coco, tmp_path, "--detector.roi-batch", "7", regions=False)
    with pytest.raises(SystemExit) as caught:
        main(["run", "detection.coco_retinanet", "random:resnet18", *typed])
    assert caught.value.code == 2
    assert "Unrecognized options: --detector.roi-batch" in capsys.readouterr().err
