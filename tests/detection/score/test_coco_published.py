"""COCO AP of the example results that are published with cocoapi, by both libraries."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from detection.score import coco_ap
from detection.score.coco_ap import CocoApOptions, evaluate_coco
from detection.score.voc_ap import evaluate_voc
from transfer.datasets.boxes.detection import DetectionDataset, DetectionImage, Detections
from transfer.datasets.boxes.masks import Mask

Kind = Literal["bbox", "segm"]
PUBLISHED = Path(__file__).parent / "published" / "coco_val2014_fake100.json.gz"


def published(precision: Any = np.float32) -> tuple[DetectionDataset, dict[str, Detections]]:
    """cocoapi's example, its boxes in the type of a `DetectionImage` or another."""
    document = json.loads(gzip.decompress(PUBLISHED.read_bytes()))
    sizes = {entry["id"]: (entry["height"], entry["width"]) for entry in document["images"]}
    labels = {category["id"]: index for index, category in enumerate(document["categories"])}
    numbers = {source_id: number for number, source_id in enumerate(sorted(sizes), 1)}
    images = []
    for source_id, number in numbers.items():
        own = [entry for entry in document["annotations"] if entry["image_id"] == source_id]
        height, width = sizes[source_id]
        xywh = np.array([entry["bbox"] for entry in own]).reshape(-1, 4)
        masks = []
        for entry in own:
            form = entry["segmentation"]
            if isinstance(form, dict):
                pixels = np.repeat(np.arange(len(form["counts"])) % 2 == 1, form["counts"])
                masks.append(Mask.from_pixels(pixels.reshape(width, height).T))
            else:
                masks.append(Mask(height, width, polygons=tuple(np.array(polygon, np.float64) for polygon in form)))
        images.append(
            DetectionImage(
                image_id=number,
                name=str(source_id),
                path=Path("none.jpg"),
                width=width,
                height=height,
                boxes=np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1).astype(precision),
                labels=np.array([labels[entry["category_id"]] for entry in own], np.int64),
                difficult=np.zeros(len(own), np.bool_),
                crowd=np.array([entry["iscrowd"] == 1 for entry in own], np.bool_),
                areas=np.array([entry["area"] for entry in own]),
                masks=tuple(masks),
                source_id=source_id,
            )
        )
    names = tuple(category["name"] for category in document["categories"])
    dataset = DetectionDataset("val2014, 100 images", names, tuple(images), category_ids=tuple(labels))
    found = {}
    for kind, key in (("bbox", "boxes"), ("segm", "masks")):
        rows = document[key]
        xywh = np.array([row.get("bbox", [0, 0, 0, 0]) for row in rows])
        found[kind] = Detections(
            np.array([numbers[row["image_id"]] for row in rows]),
            np.array([labels[row["category_id"]] for row in rows]),
            np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1).astype(precision),
            np.array([row["score"] for row in rows], np.float32),
            tuple(row["segmentation"]["counts"].encode() for row in rows) if kind == "segm" else None,
        )
    return dataset, found


# MiXaiLL76/faster_coco_eval: tests/test_cocoapi_fake_data.py: AP, AP50, AP75, APs, APm, APl, AR100, in percent.
STATED = {
    "bbox": (50.45806987, 69.69727247, 57.29816670, 58.56257209, 51.93996948, 50.13978986, 59.53529829),
    "segm": (31.95452759, 56.22883972, 29.89265341, 38.73740316, 31.01827240, 32.69339071, 41.68394992),
}


@pytest.mark.parametrize("library", ["faster_coco_eval", "pycocotools"])
@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_the_example_results_of_cocoapi_score_what_is_stated(library: Any, kind: Kind) -> None:
    if library == "pycocotools":
        pytest.importorskip("pycocotools")
    dataset, found = published(np.float64)
    result = evaluate_coco(dataset, found[kind], kind, CocoApOptions(library))
    assert tuple(result.metrics().values()) == pytest.approx(STATED[kind], abs=1e-7)


def test_boxes_in_single_precision_move_the_example_by_less_than_a_rounding_of_the_tables() -> None:
    """Its made-up boxes overlap by exactly .5, .55, …, which detectors' do not: 50.44 instead of 50.46."""
    dataset, found = published()
    result = evaluate_coco(dataset, found["bbox"], "bbox")
    assert tuple(result.metrics().values()) == pytest.approx(STATED["bbox"], abs=0.05)


def test_classes_a_few_at_a_time_give_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, found = published()
    at_once = evaluate_coco(dataset, found["segm"], "segm")
    for size in (1, 100, 700):  # 80, 8 and 2 groups
        monkeypatch.setattr(coco_ap, "DETECTIONS_AT_ONCE", size)
        parts = evaluate_coco(dataset, found["segm"], "segm")
        np.testing.assert_allclose(parts.precision, at_once.precision, atol=1e-12)
        np.testing.assert_allclose(parts.recall, at_once.recall, atol=1e-12)


def test_voc_ap_of_the_eighty_classes_of_coco() -> None:
    dataset, found = published()
    result = evaluate_voc(dataset, found["bbox"])
    assert result.ground_truth.sum() == 839 - 9  # without the crowds
    # Another measure on the same detections: near COCO's AP50 of 69.7, not equal to it.
    assert result.ap50 == pytest.approx(STATED["bbox"][1], abs=3)
