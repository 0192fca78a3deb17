"""What `make demo` shows was learnt: on scenes that training never saw, and only where the boxes say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from transfer.__main__ import main
from transfer.datasets.toy import COLOURED, EASY_SIZES, make_toy
from transfer.record import read_record


def score(voc: Path, detections: list[dict[str, object]], folder: Path) -> float:
    """AP50 of a result list, by the rule of the record."""
    listed, numbers = folder / "list.json", folder / "numbers.json"
    listed.write_text(json.dumps(detections), encoding="utf-8")
    assert main(["score", str(listed), "--voc-root", str(voc), "--test", "test", "--json", str(numbers)]) == 0
    measures = json.loads(numbers.read_text(encoding="utf-8"))["measures"]
    return float(measures["voc_11point"]["mean"]["AP50"])


@pytest.mark.slow
def test_random_weights_learn_the_easy_scenes_and_shuffled_boxes_score_nothing(tmp_path: Path) -> None:
    pytest.importorskip("mmdet")
    make_toy(tmp_path / "toy", sizes=EASY_SIZES, look=COLOURED)
    voc = tmp_path / "toy" / "voc"
    options = ["--engine", "mmdet", "--preset", "demo", "--device", "cpu", "--runs", str(tmp_path)]
    splits = ["--voc-root", str(voc), "--train", "train", "--test", "test"]
    assert main(["run", "detection.voc", "random:resnet18", *options, *splits]) == 0
    (path,) = (tmp_path / "records" / "detection.voc").iterdir()
    record = read_record(path)
    trained = record.metrics["AP50"]
    assert 50 <= trained <= 80, "detections, and room for better weights to show"

    found = json.loads((tmp_path / "work" / record.task / record.run_id / "detections.json").read_text("utf-8"))
    assert score(voc, found, tmp_path) == pytest.approx(trained)
    images = sorted({each["image_id"] for each in found})
    following = dict(zip(images, images[1:] + images[:1], strict=True))
    assert score(voc, [{**each, "image_id": following[each["image_id"]]} for each in found], tmp_path) < 5
