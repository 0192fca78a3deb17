"""COCO AP: by hand, on cocoapi's example results, and beside pycocotools reading the same files by itself."""

from __future__ import annotations

import contextlib
import gc
import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detection.score.coco_ap import CocoApOptions, CocoResult, evaluate_coco
from detection.score.detections import mask_areas
from transfer.datasets.boxes.coco import read_coco
from transfer.datasets.boxes.coco_masks import run_lengths
from transfer.datasets.boxes.detection import DetectionDataset, DetectionImage, Detections
from transfer.datasets.boxes.masks import Mask
from transfer.runtime.errors import DataError, EngineError, UserError

Kind = Literal["bbox", "segm"]
PUBLISHED = Path(__file__).parent / "published" / "coco_val2014_fake100.json.gz"
SIZE = 60  # pixels, sides of the made images


def filled(box: list[float]) -> Mask:
    pixels = np.zeros((SIZE, SIZE), np.bool_)
    x1, y1, x2, y2 = (round(max(0.0, value)) for value in box)
    pixels[y1:y2, x1:x2] = True
    return Mask.from_pixels(pixels)


def image_of(number: int, *objects: tuple[Any, ...], source_id: int = -1) -> DetectionImage:
    """Objects are (x1, y1, x2, y2, label[, "crowd" or "difficult"])."""
    boxes = np.array([row[:4] for row in objects], np.float32).reshape(-1, 4)
    return DetectionImage(
        image_id=number,
        name=f"set/{number:04d}",
        path=Path("none.jpg"),
        width=SIZE,
        height=SIZE,
        boxes=boxes,
        labels=np.array([row[4] for row in objects], np.int64),
        difficult=np.array(["difficult" in row for row in objects], np.bool_),
        crowd=np.array(["crowd" in row for row in objects], np.bool_),
        masks=tuple(filled(box) for box in boxes.tolist()),
        source_id=source_id,
    )


def dataset_of(*images: DetectionImage, classes: int = 2) -> DetectionDataset:
    return DetectionDataset("made", tuple(f"class{index}" for index in range(classes)), images)


def detections_of(*rows: tuple[float, ...]) -> Detections:
    """Rows of (image_id, label, score, x1, y1, x2, y2); the masks are the boxes."""
    boxes = np.array([row[3:] for row in rows], np.float32).reshape(-1, 4)
    return Detections(
        np.array([row[0] for row in rows], np.int64),
        np.array([row[1] for row in rows], np.int64),
        boxes,
        np.array([row[2] for row in rows], np.float32),
        tuple(filled(box).counts for box in boxes.tolist()),
    )


def assert_same(ours: CocoResult, precision: Any, recall: Any) -> None:
    np.testing.assert_allclose(ours.precision, np.where(precision < 0, np.nan, precision), rtol=0, atol=1e-12)
    np.testing.assert_allclose(ours.recall, np.where(recall < 0, np.nan, recall), rtol=0, atol=1e-12)


def by_pycocotools(document: dict[str, Any], results: list[dict[str, Any]], kind: Kind) -> tuple[Any, Any, Any]:
    """(precision, recall, its twelve numbers) as anyone gets them who gives pycocotools a JSON file and results."""
    coco = pytest.importorskip("pycocotools.coco")
    cocoeval = pytest.importorskip("pycocotools.cocoeval")
    with contextlib.redirect_stdout(io.StringIO()):
        truth = coco.COCO()
        truth.dataset = document
        truth.createIndex()
        if kind == "segm":  # else mask AP sorts detections by the areas of their boxes
            results = [{key: value for key, value in row.items() if key != "bbox"} for row in results]
        evaluator = cocoeval.COCOeval(truth, truth.loadRes(results), kind)
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return evaluator.eval["precision"][..., -1], evaluator.eval["recall"][..., -1], evaluator.stats


# -- by hand -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("library", ["faster_coco_eval", "pycocotools"])
@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_an_overlap_of_eight_tenths_is_found_at_seven_of_ten_thresholds(library: Any, kind: Kind) -> None:
    if library == "pycocotools":
        pytest.importorskip("pycocotools")
    found = detections_of((1, 0, 0.9, 10, 10, 30, 26))  # 320 of 400 pixels
    result = evaluate_coco(dataset_of(image_of(1, (10, 10, 30, 30, 0))), found, kind, CocoApOptions(library))
    assert result.metrics() == pytest.approx({"AP": 70, "AP50": 100, "AP75": 100, "APs": 70, "AR100": 70})
    assert result.per_class == {"class0": {"AP": pytest.approx(70), "AP50": pytest.approx(100)}, "class1": None}
    assert result.notes == (
        "left out of the mean, without ground truth: class1",
        "no medium and no large objects to find, so no COCO AP of that size",
    )


def test_a_false_positive_before_the_hit_halves_precision() -> None:
    found = detections_of((1, 0, 0.9, 40, 40, 55, 55), (1, 0, 0.8, 10, 10, 30, 30))
    result = evaluate_coco(dataset_of(image_of(1, (10, 10, 30, 30, 0))), found, "bbox")
    assert result.metrics()["AP"] == pytest.approx(50)
    assert result.metrics()["AR100"] == pytest.approx(100)


@pytest.mark.parametrize("flag", ["crowd", "difficult"])
def test_detections_in_crowds_and_on_difficult_objects_count_as_nothing(flag: str) -> None:
    image = image_of(1, (0, 0, 30, 30, 0), (30, 30, 60, 60, 0, flag))
    inside = [(1, 0, 0.9, 30, 30, 40, 40), (1, 0, 0.9, 45, 45, 60, 60)]  # IoUs of 1/9 and 1/4, but wholly within
    found = detections_of(*inside, (1, 0, 0.8, 0, 0, 30, 30))
    for kind in ("bbox", "segm"):
        assert evaluate_coco(dataset_of(image), found, kind).metrics()["AP"] == pytest.approx(100)
    outside = detections_of((1, 0, 0.9, 10, 40, 20, 50), (1, 0, 0.8, 0, 0, 30, 30))
    assert evaluate_coco(dataset_of(image), outside, "bbox").metrics()["AP"] == pytest.approx(50)
    assert ("COCO's AP ignores" in " ".join(evaluate_coco(dataset_of(image), found, "bbox").notes)) == (
        flag == "difficult"
    )


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_no_detections_score_zero(kind: Kind) -> None:
    nothing = Detections.concatenate([])
    nothing = Detections(nothing.image_ids, nothing.labels, nothing.boxes, nothing.scores, ())
    numbers = evaluate_coco(dataset_of(image_of(1, (10, 10, 30, 30, 0))), nothing, kind).metrics()
    assert numbers == {"AP": 0, "AP50": 0, "AP75": 0, "APs": 0, "AR100": 0}


def test_sizes_go_by_the_areas_of_the_data_set_not_by_boxes() -> None:
    image = image_of(1, (10, 10, 30, 30, 0))
    object.__setattr__(image, "areas", np.array([5000.0]))
    numbers = evaluate_coco(dataset_of(image), detections_of((1, 0, 0.9, 10, 10, 30, 30)), "bbox").metrics()
    assert "APs" not in numbers
    assert numbers["APm"] == pytest.approx(100)


def test_of_equal_scores_the_image_with_the_lower_id_of_the_file_goes_first() -> None:
    """Image 1 has the hit, image 2 the false positive; only the ids in the file differ."""
    found = detections_of((1, 0, 0.5, 10, 10, 30, 30), (2, 0, 0.5, 10, 10, 30, 30))
    first = dataset_of(image_of(1, (10, 10, 30, 30, 0), source_id=3), image_of(2, source_id=8))
    last = dataset_of(image_of(1, (10, 10, 30, 30, 0), source_id=8), image_of(2, source_id=3))
    assert evaluate_coco(first, found, "bbox").metrics()["AP"] == pytest.approx(100)
    assert evaluate_coco(last, found, "bbox").metrics()["AP"] == pytest.approx(50)


# -- beside others -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_real_annotations_score_as_pycocotools_scores_the_files(tmp_path: Path, test_data: Path) -> None:
    """Shaken, doubled and mislabelled ground truth with tied scores; pycocotools gets the JSON file as it is."""
    with tarfile.open(test_data / "coco_free" / "coco2017_free.tar") as archive:
        archive.extractall(tmp_path, filter="data")
    annotations = next(tmp_path.rglob("annotations/instances_val2017_free.json"))
    dataset = read_coco(annotations, annotations.parent.parent / "val2017", "val", masks=True)
    assert any(image.crowd.any() for image in dataset.images)
    found = shaken(dataset)
    kinds: tuple[Kind, ...] = ("bbox", "segm")
    for kind in kinds:
        ours = evaluate_coco(dataset, found, kind)
        precision, recall, stats = by_pycocotools(
            json.loads(annotations.read_text(encoding="utf-8")), found.to_coco(dataset), kind
        )
        assert_same(ours, precision, recall)
        six = dict(zip(("AP", "AP50", "AP75", "APs", "APm", "APl"), 100 * stats[:6], strict=True))
        assert ours.metrics() == pytest.approx(six | {"AR100": 100 * stats[8]}, abs=1e-9)
        assert 20 < ours.metrics()["AP"] < 90  # neither trivially right nor wrong


def shaken(dataset: DetectionDataset) -> Detections:
    rng = np.random.default_rng(0)
    parts = []
    for image in dataset.images:
        for _ in range(2):
            count = len(image.labels)
            sides = np.tile(image.boxes[:, 2:] - image.boxes[:, :2], 2)
            boxes = (image.boxes + rng.normal(0, 0.06, (count, 4)) * sides).astype(np.float32)
            labels = np.where(rng.random(count) < 0.9, image.labels, rng.integers(len(dataset.classes), size=count))
            scores = (rng.integers(1, 10, count) / 10).astype(np.float32)
            steps = rng.integers(-4, 5, (count, 2))
            masks = [
                Mask.from_pixels(np.roll(mask.pixels(), step, axis=(0, 1))).counts
                for mask, step in zip(image.masks or (), steps.tolist(), strict=True)
            ]
            parts.append(Detections(np.full(count, image.image_id), labels, boxes, scores, tuple(masks)))
    return Detections.concatenate(parts)


corners = st.tuples(*[st.integers(0, SIZE // 2 - 1)] * 2, *[st.integers(SIZE // 2, SIZE)] * 2)
objects = st.lists(st.tuples(corners, st.integers(0, 2), st.sampled_from(["", "", "crowd", "difficult"])), max_size=5)
scored = st.lists(
    st.tuples(st.integers(1, 3), st.integers(0, 2), st.sampled_from([0.2, 0.5, 0.9]), corners), max_size=12
)


@settings(max_examples=60, deadline=None)
@given(st.lists(objects, min_size=3, max_size=3), scored, st.sampled_from(["bbox", "segm"]))
def test_both_libraries_agree(images: list[Any], rows: list[Any], kind: Kind) -> None:
    pytest.importorskip("pycocotools")
    sure = ((5, 5, 50, 50), 0, "")  # something to find
    made = [
        image_of(number, *[(*box, label, flag) for box, label, flag in ([sure, *own] if number == 1 else own)])
        for number, own in enumerate(images, 1)
    ]
    dataset, found = dataset_of(*made, classes=3), detections_of(*[(*row[:3], *row[3]) for row in rows])
    fast = evaluate_coco(dataset, found, kind)
    plain = evaluate_coco(dataset, found, kind, CocoApOptions("pycocotools"))
    assert_same(fast, plain.precision, plain.recall)
    assert fast.notes == plain.notes


# -- refusals ----------------------------------------------------------------------------------------------------

GOOD = (1, 0, 0.9, 10, 10, 30, 30)


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ((1, 0, np.nan, 10, 10, 30, 30), "NaN"),
        ((1, 0, 0.9, 10, 10, np.inf, 30), "infinite"),
        ((2, 0, 0.9, 10, 10, 30, 30), "image ids"),
        ((1, 2, 0.9, 10, 10, 30, 30), "labels"),
    ],
)
def test_detections_that_make_no_sense_are_refused(row: tuple[float, ...], problem: str) -> None:
    made = detections_of(GOOD, GOOD)
    found = detections_of(GOOD, (*row[:3], 10, 10, 30, 30))
    found.boxes[1] = row[3:]
    assert evaluate_coco(dataset_of(image_of(1, (10, 10, 30, 30, 0))), made, "bbox").metrics()["AP"] > 0
    with pytest.raises(EngineError, match=problem):
        evaluate_coco(dataset_of(image_of(1, (10, 10, 30, 30, 0))), found, "bbox")


@pytest.mark.parametrize("images", [(), (image_of(1),), (image_of(1, (1, 1, 9, 9, 0, "crowd")),)])
def test_a_data_set_without_an_object_is_refused(images: tuple[DetectionImage, ...]) -> None:
    with pytest.raises(DataError, match="no object to find"):
        evaluate_coco(dataset_of(*images), Detections.concatenate([]), "bbox")


def test_masks_must_be_on_both_sides() -> None:
    dataset, found = dataset_of(image_of(1, (10, 10, 30, 30, 0))), detections_of(GOOD)
    without = Detections(found.image_ids, found.labels, found.boxes, found.scores)
    with pytest.raises(EngineError, match="have no masks"):
        evaluate_coco(dataset, without, "segm")
    with pytest.raises(EngineError, match="cannot be scored"):
        evaluate_coco(dataset, Detections(found.image_ids, found.labels, found.boxes, found.scores, ()), "bbox")
    image = image_of(1, (10, 10, 30, 30, 0))
    object.__setattr__(image, "masks", None)
    with pytest.raises(DataError, match="no masks to compare"):
        evaluate_coco(dataset_of(image), found, "segm")


SOUND = filled([10, 10, 30, 30]).counts
BROKEN = [b"", SOUND[:-1], SOUND + b"1", b"\xff" + SOUND[1:], b"!" + SOUND[1:], SOUND[:-1] + b"o", b"o" * 12 + b"0"]


@pytest.mark.parametrize("counts", [*BROKEN, Mask.from_pixels(np.ones((SIZE, SIZE - 1), np.bool_)).counts])
@pytest.mark.parametrize("place", [0, 1])
def test_masks_that_do_not_decode_are_refused_and_named(counts: bytes, place: int) -> None:
    masks = [SOUND, SOUND]
    masks[place] = counts
    found = detections_of(GOOD, GOOD)
    found = Detections(found.image_ids, found.labels, found.boxes, found.scores, tuple(masks))
    with pytest.raises(EngineError, match="does not decode") as caught:
        evaluate_coco(dataset_of(image_of(1, (10, 10, 30, 30, 0))), found, "segm")
    assert f"detection {place + 1} of 2" in caught.value.found


@settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(st.binary(min_size=1, max_size=6), st.integers(0, 2**32 - 1)), min_size=1, max_size=4))
def test_areas_of_masks_and_what_is_no_mask(made: list[bytes | int]) -> None:
    """Integers seed random masks, bytes are taken as they are; the reader's decoder says what is right."""
    masks, areas = [], []
    for one in made:
        if isinstance(one, int):
            one = Mask.from_pixels(np.random.default_rng(one).random((SIZE, SIZE)) < 0.3).counts
        masks.append(one)
        areas.append(area_by_reader(one))
    count = len(masks)
    boxes = np.zeros((count, 4), np.float32)
    found = Detections(
        np.ones(count, np.int64), np.zeros(count, np.int64), boxes, np.ones(count, np.float32), (*masks,)
    )
    if None in areas:
        with pytest.raises(EngineError, match="does not decode") as caught:
            mask_areas(dataset_of(image_of(1)), found)
        named = int(caught.value.found.split()[1])
        assert areas[named - 1] is None
    else:
        assert mask_areas(dataset_of(image_of(1)), found).tolist() == areas


def area_by_reader(counts: bytes) -> int | None:
    try:
        lengths = run_lengths(counts)
    except ValueError:
        return None
    return int(lengths[1::2].sum()) if (lengths >= 0).all() and lengths.sum() == SIZE * SIZE else None


def test_pycocotools_is_imported_only_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import sys, detection.score.coco_ap; sys.exit('pycocotools' in sys.modules)"
    root = Path(__file__).parents[3]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
    monkeypatch.setitem(sys.modules, "pycocotools.coco", None)
    dataset, found = dataset_of(image_of(1, (10, 10, 30, 30, 0))), detections_of(GOOD)
    assert evaluate_coco(dataset, found, "segm").metrics()["AP"] == pytest.approx(100)
    with pytest.raises(UserError, match="cannot be imported") as caught:
        evaluate_coco(dataset, found, "segm", CocoApOptions("pycocotools"))
    assert "pip install pycocotools" in caught.value.todo


def test_the_collector_runs_again_afterwards(capsys: pytest.CaptureFixture[str]) -> None:
    broken = Detections(*(getattr(detections_of(GOOD), name) for name in ("image_ids", "labels", "boxes", "scores")))
    for found in (detections_of(GOOD), broken):
        with contextlib.suppress(EngineError):
            evaluate_coco(dataset_of(image_of(1, (10, 10, 30, 30, 0))), found, "segm")
        assert gc.isenabled()
    assert capsys.readouterr().out == ""
