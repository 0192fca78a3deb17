"""The precision–recall picture: which curves, their numbers, and that it is a whole PNG or none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from PIL import Image

from detection.pictures import curves
from detection.pictures.curves import draw_curves
from detection.score.coco_ap import CocoResult, Kind
from transfer.runtime.errors import UserError


def result_of(at_50: list[float], at_75: list[float], kind: Kind = "bbox") -> CocoResult:
    """Classes of constant precision; NaN has no object."""
    count = len(at_50)
    precision = np.zeros((10, 101, count, 4))
    precision[0] = np.array(at_50)[:, None]
    precision[5] = np.array(at_75)[:, None]
    precision[:, :, np.isnan(at_50)] = np.nan
    return CocoResult(kind, tuple(f"class {index}" for index in range(count)), precision, np.zeros((10, count, 4)))


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Everything that is plotted: label → (recall, precision)."""
    seen: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    plot = Axes.plot

    def spy(self: Axes, x: np.ndarray, y: np.ndarray, **options: Any) -> Any:
        seen[options["label"]] = (x, y)
        return plot(self, x, y, **options)

    monkeypatch.setattr(Axes, "plot", spy)
    return seen


def test_means_leave_out_classes_without_objects(tmp_path: Path, drawn: dict[str, Any]) -> None:
    result = result_of([0.8, np.nan, 0.4], [0.5, np.nan, 0.1])
    draw_curves(result, tmp_path / "curves.png")
    assert list(drawn) == [" 60.0  IoU 0.5", " 30.0  IoU 0.75", " 80.0  class 0", " 40.0  class 2"]
    recall, precision = drawn[" 60.0  IoU 0.5"]
    assert recall == pytest.approx(np.arange(101) / 100)
    assert precision == pytest.approx(np.full(101, 0.6))
    assert result.metrics()["AP50"] == pytest.approx(60)
    assert result.metrics()["AP75"] == pytest.approx(30)


def test_curves_are_the_levels_of_all_sizes_together(tmp_path: Path, drawn: dict[str, Any]) -> None:
    result = result_of([0.0], [0.0])
    result.precision[0, :, 0, 0] = np.linspace(1, 0, 101)
    result.precision[0, :, 0, 1:] = 0.7  # the sizes, which are not drawn
    draw_curves(result, tmp_path / "curves.png")
    assert drawn[" 50.0  class 0"][1] == pytest.approx(np.linspace(1, 0, 101))


def test_of_many_classes_ten_from_the_best_to_the_worst(tmp_path: Path, drawn: dict[str, Any]) -> None:
    shuffled = np.random.default_rng(0).permutation(80)
    draw_curves(result_of((shuffled / 80).tolist(), [0.0] * 80), tmp_path / "curves.png")
    ranks = [79 - int(shuffled[int(label.split()[-1])]) for label in drawn if "class" in label]
    assert len(ranks) == curves.CLASSES_UP_TO
    assert (ranks[0], ranks[-1]) == (0, 79)
    assert set(np.diff(ranks)) <= {8, 9}


@pytest.mark.parametrize("classes", [1, 10, 80])
def test_it_is_a_png_and_the_same_each_time(classes: int, tmp_path: Path) -> None:
    result = result_of([0.5] * classes, [0.2] * classes, "segm")
    for name in ("a.png", "b.png"):
        draw_curves(result, tmp_path / "new folder" / name)
    first, second = ((tmp_path / "new folder" / name).read_bytes() for name in ("a.png", "b.png"))
    assert first == second
    with Image.open(tmp_path / "new folder" / "a.png") as image:
        assert image.format == "PNG"
        assert min(image.size) > 400


def test_names_of_classes_are_no_formulas(tmp_path: Path, drawn: dict[str, Any]) -> None:
    result = result_of([0.5], [0.5])
    draw_curves(replace(result, classes=(r"_$\frac{$",)), tmp_path / "curves.png")  # as mathematics it is an error
    assert (tmp_path / "curves.png").stat().st_size > 1000


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match="cannot write"):
        draw_curves(result_of([0.5], [0.5]), tmp_path / "file" / "curves.png")
