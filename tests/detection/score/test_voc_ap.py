"""VOC AP: hand-computed cases, an independent evaluator written from the devkit's definition, and Detectron2's own."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detection.score import voc_ap
from detection.score.voc_ap import IOU_THRESHOLDS, VocApOptions, evaluate_voc
from transfer.datasets.boxes.detection import DetectionDataset, DetectionImage, Detections
from transfer.runtime.errors import DataError, EngineError

THRESHOLDS = [0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95]


def dataset_of(*images: list[tuple], classes: tuple[str, ...] = ("cat", "dog")) -> DetectionDataset:
    """Images of (x1, y1, x2, y2, label[, difficult]) boxes, 0-based with exclusive ends."""
    made = []
    for index, boxes in enumerate(images):
        made.append(
            DetectionImage(
                image_id=index + 1,
                name=f"set/{index:04d}",
                path=Path("none.jpg"),
                width=200,
                height=200,
                boxes=np.array([box[:4] for box in boxes], np.float32).reshape(-1, 4),
                labels=np.array([box[4] for box in boxes], np.int64),
                difficult=np.array([len(box) > 5 and bool(box[5]) for box in boxes], np.bool_),
            )
        )
    return DetectionDataset("made", classes, tuple(made))


def detections_of(*rows: tuple) -> Detections:
    """Rows of (image_id, label, score, x1, y1, x2, y2)."""
    return Detections(
        np.array([row[0] for row in rows], np.int64),
        np.array([row[1] for row in rows], np.int64),
        np.array([row[3:] for row in rows], np.float32).reshape(-1, 4),
        np.array([row[2] for row in rows], np.float32),
    )


# -- hand-computed -----------------------------------------------------------------------------------------------


def test_perfect_detections_score_100() -> None:
    dataset = dataset_of([(0, 0, 50, 50, 0), (60, 60, 90, 90, 1)], [(5, 5, 25, 45, 1)])
    found = detections_of((1, 0, 0.9, 0, 0, 50, 50), (1, 1, 0.8, 60, 60, 90, 90), (2, 1, 0.7, 5, 5, 25, 45))
    for mode in ("11point", "area"):
        assert evaluate_voc(dataset, found, VocApOptions(mode=mode)).metrics() == pytest.approx(
            {"AP": 100, "AP50": 100, "AP75": 100}
        )


def test_eleven_points_and_area_by_hand() -> None:
    # Two boxes; in order of score: hit, miss, hit. Precision 1, 1/2, 2/3 at recall 1/2, 1/2, 1.
    dataset = dataset_of([(0, 0, 50, 50, 0), (100, 100, 150, 150, 0)], classes=("cat",))
    found = detections_of((1, 0, 0.9, 0, 0, 50, 50), (1, 0, 0.8, 60, 60, 90, 90), (1, 0, 0.7, 100, 100, 150, 150))
    # Levels 0 … .5 (six of them) see precision 1, levels .6 … 1 (five) see 2/3.
    assert evaluate_voc(dataset, found).ap50 == pytest.approx(100 * (6 + 5 * 2 / 3) / 11)
    assert evaluate_voc(dataset, found, VocApOptions(mode="area")).ap50 == pytest.approx(100 * (0.5 + 0.5 * 2 / 3))


def test_recall_of_exactly_three_tenths_does_not_reach_the_level_as_computed_in_binary() -> None:
    boxes = [(20 * k, 0, 20 * k + 10, 10, 0) for k in range(10)]
    found = detections_of(*[(1, 0, 0.9, 20 * k, 0, 20 * k + 10, 10) for k in range(3)])
    result = evaluate_voc(dataset_of(boxes, classes=("cat",)), found)
    assert result.ap50 == pytest.approx(100 * 3 / 11)  # levels 0, .1, .2; a decimal .3 would make it 4 of 11


def test_second_detection_of_a_box_is_a_false_positive() -> None:
    dataset = dataset_of([(0, 0, 50, 50, 0), (100, 100, 150, 150, 0)], classes=("cat",))
    found = detections_of((1, 0, 0.9, 0, 0, 50, 50), (1, 0, 0.8, 0, 0, 50, 49), (1, 0, 0.7, 100, 100, 150, 150))
    assert evaluate_voc(dataset, found, VocApOptions(mode="area")).ap50 == pytest.approx(100 * (0.5 + 0.5 * 2 / 3))


def test_a_better_later_detection_claims_the_box_where_the_earlier_one_does_not_reach() -> None:
    # Scores .9 with IoU 35/50 = .7 and .8 with IoU 1: below .7 the first is the hit, from .7 on the second is.
    dataset = dataset_of([(0, 0, 50, 50, 0)], classes=("cat",))
    found = detections_of((1, 0, 0.9, 0, 0, 50, 35), (1, 0, 0.8, 0, 0, 50, 50))
    by_threshold = evaluate_voc(dataset, found, VocApOptions(mode="area")).by_class[0]
    assert by_threshold.tolist() == pytest.approx([100] * 4 + [50] * 6)  # strict: at .7 itself the first fails
    loose = evaluate_voc(dataset, found, VocApOptions(mode="area", strict=False)).by_class[0]
    assert loose.tolist() == pytest.approx([100] * 5 + [50] * 5)


def test_a_detection_belongs_to_the_box_it_overlaps_most_even_if_that_one_is_taken() -> None:
    # The second detection overlaps the first box by 48/50 and the other one by 43/50: enough for either, but the
    # devkit lets it try for the first alone, which is gone.
    dataset = dataset_of([(0, 0, 50, 50, 0), (5, 0, 50, 50, 0)], classes=("cat",))
    found = detections_of((1, 0, 0.9, 0, 0, 50, 50), (1, 0, 0.8, 0, 0, 48, 50))
    assert evaluate_voc(dataset, found, VocApOptions(mode="area")).ap50 == pytest.approx(50)


def test_difficult_boxes_are_neither_to_be_found_nor_errors_to_find() -> None:
    dataset = dataset_of([(0, 0, 50, 50, 0, True), (100, 100, 150, 150, 0)], classes=("cat",))
    found = detections_of((1, 0, 0.9, 0, 0, 50, 50), (1, 0, 0.8, 0, 0, 50, 48), (1, 0, 0.7, 100, 100, 150, 150))
    result = evaluate_voc(dataset, found)
    assert result.ap50 == pytest.approx(100)
    assert result.ground_truth.tolist() == [1]
    assert result.difficult.tolist() == [1]
    assert result.detections.tolist() == [3]
    # A detection of IoU .94 with the difficult box is ignored up to .9 and an error at .95.
    worse = detections_of((1, 0, 0.8, 0, 0, 50, 47), (1, 0, 0.7, 100, 100, 150, 150))
    assert evaluate_voc(dataset, worse, VocApOptions(mode="area")).by_class[0, -1] == pytest.approx(50)


def test_of_two_equal_overlaps_the_box_annotated_first_counts() -> None:
    easy, hard = (0, 0, 50, 50, 0), (0, 0, 50, 50, 0, True)
    found = detections_of((1, 0, 0.9, 0, 0, 50, 50))
    assert evaluate_voc(dataset_of([easy, hard], classes=("cat",)), found).ap == pytest.approx(100)
    assert evaluate_voc(dataset_of([hard, easy], classes=("cat",)), found).ap == 0


def test_other_images_and_classes_do_not_match() -> None:
    dataset = dataset_of([(0, 0, 50, 50, 0)], [(0, 0, 50, 50, 1)])
    swapped = detections_of((2, 0, 0.9, 0, 0, 50, 50), (1, 1, 0.9, 0, 0, 50, 50))
    assert evaluate_voc(dataset, swapped).ap == 0


def test_plus_one_equals_exclusive_ends_and_its_absence_narrows_areas() -> None:
    # 10 × 10 against 10 × 5 pixels: IoU exactly 1/2. Without +1: 9 · 4 / (9 · 9) = .444.
    dataset = dataset_of([(0, 0, 10, 10, 0)], classes=("cat",))
    found = detections_of((1, 0, 0.9, 0, 0, 10, 5))
    assert evaluate_voc(dataset, found, VocApOptions(strict=False)).ap50 == pytest.approx(100)
    assert evaluate_voc(dataset, found, VocApOptions(strict=True)).ap50 == 0
    assert evaluate_voc(dataset, found, VocApOptions(strict=False, plus_one=False)).ap50 == 0


def test_boxes_are_rounded_to_one_decimal_and_scores_to_three() -> None:
    dataset = dataset_of([(0, 0, 10, 10, 0)], classes=("cat",))
    found = detections_of((1, 0, 0.9, 0, 0, 10, 5.04))  # IoU .504, rounded 5.0 gives .5, which is not above .5
    assert evaluate_voc(dataset, found).ap50 == 0
    assert evaluate_voc(dataset, found, VocApOptions(box_decimals=None)).ap50 == pytest.approx(100)
    # A miss in image 1 of score .9004 and a hit in image 2 of .9001 tie once rounded: the lower image id goes first.
    dataset = dataset_of([(0, 0, 10, 10, 0)], [(0, 0, 10, 10, 0)], classes=("cat",))
    found = detections_of((1, 0, 0.9001, 100, 100, 110, 110), (2, 0, 0.9004, 0, 0, 10, 10))
    assert evaluate_voc(dataset, found, VocApOptions(mode="area")).ap50 == pytest.approx(25)
    assert evaluate_voc(dataset, found, VocApOptions(mode="area", score_decimals=None)).ap50 == pytest.approx(50)


def test_classes_without_ground_truth_are_left_out_and_named() -> None:
    dataset = dataset_of([(0, 0, 50, 50, 0), (0, 0, 20, 20, 1, True)], classes=("cat", "dog", "owl"))
    found = detections_of((1, 0, 0.9, 0, 0, 50, 50), (1, 2, 0.9, 0, 0, 50, 50))
    result = evaluate_voc(dataset, found)
    assert result.metrics() == pytest.approx({"AP": 100, "AP50": 100, "AP75": 100})
    assert np.isnan(result.by_class).all(axis=1).tolist() == [False, True, True]
    assert "dog, owl" in result.notes[0]


def test_no_detections_score_zero() -> None:
    dataset = dataset_of([(0, 0, 50, 50, 0)], [])
    for mode in ("11point", "area"):
        assert evaluate_voc(dataset, Detections.concatenate([]), VocApOptions(mode=mode)).ap == 0


# -- refusals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ((1, 0, np.nan, 0, 0, 50, 50), "NaN or infinite"),
        ((1, 0, 0.5, 0, 0, np.inf, 50), "NaN or infinite"),
        ((3, 0, 0.5, 0, 0, 50, 50), "image ids"),
        ((1, 2, 0.5, 0, 0, 50, 50), "labels"),
        ((1, -1, 0.5, 0, 0, 50, 50), "labels"),
    ],
)
def test_what_is_no_result_is_refused(row: tuple, problem: str) -> None:
    dataset = dataset_of([(0, 0, 50, 50, 0)], [])
    with pytest.raises(EngineError, match=problem) as caught:
        evaluate_voc(dataset, detections_of((1, 0, 0.9, 0, 0, 50, 50), row))
    assert "1 of 2" in caught.value.found


def test_nothing_to_find_is_refused() -> None:
    with pytest.raises(DataError, match="no box to find"):
        evaluate_voc(dataset_of([(0, 0, 50, 50, 0, True)]), detections_of((1, 0, 0.9, 0, 0, 50, 50)))
    with pytest.raises(DataError, match="no box to find"):
        evaluate_voc(dataset_of([], []), Detections.concatenate([]))


def test_unknown_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="11point"):
        VocApOptions(mode="12point")  # type: ignore[arg-type]


# -- an independent evaluator ------------------------------------------------------------------------------------


def naive_iou(a: tuple, b: list, extra: float) -> float:
    w = min(a[2], b[2]) - max(a[0], b[0]) + extra
    h = min(a[3], b[3]) - max(a[1], b[1]) + extra
    both = w * h if w > 0 and h > 0 else 0.0
    areas = [(box[2] - box[0] + extra) * (box[3] - box[1] + extra) for box in (a, b)]
    union = areas[0] + areas[1] - both
    return both / union if union > 0 else 0.0


def naive_ap(
    dataset: DetectionDataset, found: Detections, label: int, threshold: float, options: VocApOptions
) -> float:
    """One class at one threshold, box by box, from the text of the VOC2007 devkit's documentation (section 3.4.1)."""
    extra = 1.0 if options.plus_one else 0.0
    truth: dict[int, list[list]] = {}
    for image in dataset.images:
        for (x1, y1, x2, y2), k, hard in zip(image.boxes.tolist(), image.labels, image.difficult, strict=True):
            if k == label:
                truth.setdefault(image.image_id, []).append([x1 + 1, y1 + 1, x2, y2, bool(hard), False])
    rows = []
    for index in range(len(found)):
        if found.labels[index] != label:
            continue
        x1, y1, x2, y2 = found.boxes[index]
        corners = [float(corner) for corner in (x1 + np.float32(1), y1 + np.float32(1), x2, y2)]
        if options.box_decimals is not None:
            corners = [float(f"{corner:.{options.box_decimals}f}") for corner in corners]
        full = score = float(found.scores[index])
        if options.score_decimals is not None:
            score = float(f"{score:.{options.score_decimals}f}")
        rows.append((-score, int(found.image_ids[index]), -full, [float(v) for v in found.boxes[index]], corners))
    hits, errors, points = 0, 0, []
    positives = sum(not box[4] for boxes in truth.values() for box in boxes)
    for _, image_id, _, _, (x1, y1, x2, y2) in sorted(rows):
        best, best_box = -1.0, None
        for box in truth.get(image_id, []):
            overlap = naive_iou((x1, y1, x2, y2), box, extra)
            if overlap > best:
                best, best_box = overlap, box
        if best_box is not None and (best > threshold if options.strict else best >= threshold):
            if best_box[4]:
                pass
            elif best_box[5]:
                errors += 1
            else:
                best_box[5] = True
                hits += 1
        else:
            errors += 1
        points.append((hits / positives, hits / (hits + errors) if hits + errors else 0.0))
    if options.mode == "11point":
        levels = [k * 0.1 for k in range(11)]
        return sum(max([p for r, p in points if r >= level], default=0.0) for level in levels) / 11
    area, reached = 0.0, 0.0
    for index, (recall, _) in enumerate(points):
        area += (recall - reached) * max(p for _, p in points[index:])
        reached = recall
    return area


corner = st.integers(0, 30)
size = st.integers(1, 14)
truth_box = st.tuples(corner, corner, size, size, st.integers(0, 1), st.booleans()).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3], b[4], b[5])
)
shift = st.sampled_from([0, 0, 0.26, 1, -1, 1.5, 2, -3])


@st.composite
def scenes(draw: st.DrawFn) -> tuple[DetectionDataset, Detections]:
    images = draw(st.lists(st.lists(truth_box, max_size=5), min_size=1, max_size=4))
    images[0].append((3, 3, 12, 14, draw(st.integers(0, 1)), False))  # something to find
    rows = []
    for image_id, boxes in enumerate(images, 1):
        for _ in range(draw(st.integers(0, 6))):
            base = draw(st.sampled_from(boxes) if boxes and draw(st.booleans()) else truth_box)
            moved = [base[k] + draw(shift) for k in range(4)]
            score = draw(st.one_of(st.sampled_from([0.5, 0.9, 0.9004]), st.floats(0, 1, width=32)))
            label = draw(st.sampled_from([base[4], base[4], 1 - base[4]]))
            rows.append((image_id, label, score, moved[0], moved[1], max(moved[2], moved[0]), max(moved[3], moved[1])))
    rows = draw(st.permutations(rows))
    return dataset_of(*images), detections_of(*rows) if rows else Detections.concatenate([])


options_drawn = st.builds(
    VocApOptions,
    mode=st.sampled_from(["11point", "area"]),
    plus_one=st.booleans(),
    strict=st.booleans(),
    score_decimals=st.sampled_from([3, None]),
    box_decimals=st.sampled_from([1, None]),
)


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(scene=scenes(), options=options_drawn)
def test_equals_an_evaluator_that_goes_box_by_box(scene: tuple, options: VocApOptions) -> None:
    dataset, found = scene
    result = evaluate_voc(dataset, found, options)
    for label in range(2):
        if not result.ground_truth[label]:
            assert np.isnan(result.by_class[label]).all()
            continue
        expected = [100 * naive_ap(dataset, found, label, threshold, options) for threshold in THRESHOLDS]
        np.testing.assert_allclose(result.by_class[label], expected, atol=1e-9, rtol=0)


@settings(max_examples=30, deadline=None)
@given(scene=scenes(), options=options_drawn, data=st.data())
def test_order_of_the_detections_does_not_matter(scene: tuple, options: VocApOptions, data: st.DataObject) -> None:
    dataset, found = scene
    order = np.array(data.draw(st.permutations(range(len(found)))), dtype=np.int64)
    mixed = Detections(found.image_ids[order], found.labels[order], found.boxes[order], found.scores[order])
    np.testing.assert_array_equal(
        evaluate_voc(dataset, found, options).by_class, evaluate_voc(dataset, mixed, options).by_class
    )


@settings(max_examples=30, deadline=None)
@given(scene=scenes(), options=options_drawn)
def test_splitting_the_overlaps_into_chunks_changes_nothing(scene: tuple, options: VocApOptions) -> None:
    dataset, found = scene
    whole = evaluate_voc(dataset, found, options).by_class
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(voc_ap, "PAIRS_AT_ONCE", 2)
        np.testing.assert_array_equal(evaluate_voc(dataset, found, options).by_class, whole)


@settings(max_examples=30, deadline=None)
@given(scene=scenes())
def test_without_competition_ap_falls_with_the_threshold(scene: tuple) -> None:
    dataset, found = scene
    _, kept = np.unique(np.stack([found.image_ids, found.labels]), axis=1, return_index=True)
    single = Detections(found.image_ids[kept], found.labels[kept], found.boxes[kept], found.scores[kept])
    easy = DetectionDataset(
        dataset.name,
        dataset.classes,
        tuple(
            DetectionImage(i.image_id, i.name, i.path, i.width, i.height, i.boxes, i.labels, np.zeros_like(i.difficult))
            for i in dataset.images
        ),
    )
    by_class = evaluate_voc(easy, single).by_class
    assert (np.diff(by_class[~np.isnan(by_class).any(axis=1)], axis=1) <= 1e-9).all()


@settings(max_examples=200, deadline=None)
@given(
    value=st.one_of(st.floats(0, 1, width=32), st.integers(0, 2000).map(lambda k: float(np.float32(k / 2000)))),
    corner=st.floats(0, 2000, width=32),
)
def test_rounding_is_that_of_printing(value: float, corner: float) -> None:
    assert voc_ap._rounded(np.array([value]), 3)[0] == float(f"{value:.3f}")
    assert voc_ap._rounded(np.array([corner]), 1)[0] == float(f"{corner:.1f}")


def test_thresholds_are_the_ten_of_the_tables() -> None:
    assert [round(float(t), 10) for t in IOU_THRESHOLDS] == THRESHOLDS


# -- Detectron2's own --------------------------------------------------------------------------------------------


@pytest.mark.detectron2
@pytest.mark.parametrize(("year", "mode"), [(2007, "11point"), (2012, "area")])
def test_equals_detectron2_without_tied_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, year: int, mode: str
) -> None:
    pytest.importorskip("detectron2")
    from transfer.datasets.boxes.voc import VOC_CLASSES, read_voc

    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "benchmarks"))
    bench = importlib.import_module("bench_voc_ap")
    bench.make_voc(tmp_path / "VOC", images=80, seed=year)
    dataset = read_voc([(tmp_path / "VOC", "test")], "made", VOC_CLASSES)
    found = bench.detections_for(dataset, per_image=30, seed=year)
    # Scores that stay different within a class after rounding to three decimals, in a random order.
    scores = np.empty(len(found), np.float32)
    for label in range(len(VOC_CLASSES)):
        rows = np.flatnonzero(found.labels == label)
        levels = np.random.default_rng(label).permutation(1000)[: len(rows)]
        assert len(levels) == len(rows)
        scores[rows] = levels / 1000 + np.random.default_rng(label).uniform(-4e-4, 4e-4, len(rows))
    found = Detections(found.image_ids, found.labels, found.boxes, np.clip(scores, 0, 1))
    evaluator, _ = bench.detectron2_evaluator(tmp_path / "VOC", dataset, found, year)
    theirs, _, _ = bench.timed_detectron2(evaluator)
    ours = evaluate_voc(dataset, found, VocApOptions(mode=mode))
    assert 5 < ours.ap < ours.ap50 < 95  # a comparison of zeros would show nothing
    assert ours.metrics() == pytest.approx(theirs, abs=1e-6)
