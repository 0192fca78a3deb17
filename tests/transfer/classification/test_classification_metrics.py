"""Numbers of classification against scikit-learn and against the definitions written out by hand."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, average_precision_score, balanced_accuracy_score, top_k_accuracy_score

from transfer.classification.score import (
    at_level,
    average_precisions,
    classification_metrics,
    mean_per_class,
    mean_per_class_error,
    per_class,
    top_k,
)
from transfer.datasets.labels.labelled import Level
from transfer.runtime.errors import UserError

seeds = st.integers(0, 2**32 - 1)


def random_case(seed, rows=60, classes=8):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rows, classes)), rng.integers(0, classes, rows)


@given(seeds)
@settings(max_examples=30, deadline=None)
def test_equals_scikit_learn(seed):
    scores, labels = random_case(seed)
    everything = list(range(8))
    for k in (1, 2, 5):
        assert top_k(scores, labels, k) == pytest.approx(
            100 * top_k_accuracy_score(labels, scores, k=k, labels=everything)
        )
    predicted = scores.argmax(1)
    assert mean_per_class(predicted, labels, 8) == pytest.approx(100 * balanced_accuracy_score(labels, predicted))
    metrics = classification_metrics(scores, labels, {})
    assert metrics["top1"] == pytest.approx(100 * accuracy_score(labels, predicted))


def test_a_constant_classifier_gains_nothing_by_ties():
    labels = np.array([0, 1, 2, 3, 4, 5])
    assert top_k(np.zeros((6, 6)), labels, 5) == 0


def test_classes_without_rows_do_not_count():
    predicted, labels = np.array([0, 0, 2]), np.array([0, 2, 2])
    shares = per_class(predicted, labels, 4)
    assert shares[[0, 2]].tolist() == [100, 50]
    assert np.isnan(shares[[1, 3]]).all()
    assert mean_per_class(predicted, labels, 4) == 75


def test_error_of_the_mean_per_class_is_the_spread_over_draws():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [10, 40, 200])
    chances = np.array([0.9, 0.5, 0.2])
    draws = [
        mean_per_class(np.where(rng.random(250) < chances[labels], labels, (labels + 1) % 3), labels, 3)
        for _ in range(3000)
    ]
    predicted = np.where(np.arange(250) % 10 < 10 * chances[labels], labels, (labels + 1) % 3)
    assert mean_per_class_error(predicted, labels, 3) == pytest.approx(np.std(draws), rel=0.06)


def test_levels_count_a_confusion_within_a_genus_as_right():
    level = Level(("apple", "cherry"), np.array([0, 0, 1]))
    assert at_level(np.array([0, 1, 2, 0]), np.array([1, 1, 2, 2]), level) == 75
    scores = np.eye(3)[[0, 1, 2, 0]]
    metrics = classification_metrics(scores, np.array([1, 1, 2, 2]), {"genus": level})
    assert metrics["top1_genus"] == 75
    assert metrics["top1"] == 50
    assert "top5" not in metrics


def area_by_hand(scores, wanted):
    """VISSL's rule: precision made monotone from the right, summed over the steps of recall."""
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    found, points = 0, []
    for seen, place in enumerate(order, 1):
        found += wanted[place]
        points.append((found / sum(wanted), found / seen))
    area, last = 0.0, 0.0
    for place, (recall, _) in enumerate(points):
        area += (recall - last) * max(precision for _, precision in points[place:])
        last = recall
    return 100 * area


@given(seeds)
@settings(max_examples=30, deadline=None)
def test_area_equals_the_rule_written_out_and_exceeds_the_step_sum(seed):
    rng = np.random.default_rng(seed)
    scores = rng.permutation(40).astype(float)
    wanted = rng.random(40) < 0.3
    wanted[0] = True
    labels = np.where(wanted, 1, -1).astype(np.int8)
    found = average_precisions(scores[:, None], labels[:, None])
    assert found.area[0] == pytest.approx(area_by_hand(scores.tolist(), wanted.tolist()))
    assert found.area[0] >= 100 * average_precision_score(wanted, scores) - 1e-9


@given(seeds)
@settings(max_examples=20, deadline=None)
def test_order_of_rows_and_a_monotone_change_of_scores_do_not_matter(seed):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 6, (30, 2)).astype(float)  # many ties
    labels = rng.choice([-1, 0, 1], (30, 2)).astype(np.int8)
    labels[0] = 1
    order = rng.permutation(30)
    first, second = average_precisions(scores, labels), average_precisions(np.exp(scores[order]), labels[order])
    np.testing.assert_allclose(first.area, second.area)
    np.testing.assert_allclose(first.eleven_point, second.eleven_point)


def test_difficult_images_are_ignored_class_by_class():
    scores = np.array([[4.0, 1.0], [3.0, 2.0], [2.0, 3.0], [1.0, 4.0]])
    labels = np.array([[0, 1], [1, 1], [-1, -1], [-1, -1]], dtype=np.int8)
    found = average_precisions(scores, labels)
    assert found.area[0] == 100  # the best scored image is difficult for class 0
    assert found.area[1] < 100


def test_eleven_points_by_hand():
    # hits at ranks 1 and 4 of 2: recall 0.5 at precision 1, recall 1 at precision 0.5
    scores = np.array([[5.0], [4.0], [3.0], [2.0]])
    labels = np.array([[1], [-1], [-1], [1]], dtype=np.int8)
    found = average_precisions(scores, labels)
    assert found.eleven_point[0] == pytest.approx(100 * (6 * 1.0 + 5 * 0.5) / 11)
    assert found.area[0] == pytest.approx(75)
    assert found.metrics() == {"mAP": pytest.approx(75), "mAP_11point": pytest.approx(100 * 8.5 / 11)}


def test_a_class_that_is_never_shown_is_left_out_of_the_mean():
    scores = np.array([[1.0, 1.0], [0.0, 0.0]])
    labels = np.array([[1, -1], [-1, -1]], dtype=np.int8)
    found = average_precisions(scores, labels)
    assert math.isnan(found.area[1])
    assert found.metrics()["mAP"] == 100


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_scores_that_are_not_finite_are_refused(value):
    scores = np.zeros((3, 2))
    scores[1, 0] = value
    with pytest.raises(UserError, match="1 of 3 rows"):
        top_k(scores, np.zeros(3, np.int64), 1)
    with pytest.raises(UserError, match="not finite"):
        average_precisions(scores, np.ones((3, 2), np.int8))


def test_scores_of_another_shape_are_refused():
    with pytest.raises(UserError, match="3 labelled rows"):
        top_k(np.zeros((2, 2)), np.zeros(3, np.int64), 1)
    with pytest.raises(UserError, match="score for every label"):
        average_precisions(np.zeros((3, 2)), np.ones((3, 1), np.int8))
