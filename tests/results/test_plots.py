"""Pictures: drawn from the right numbers, refused with a sentence where they cannot be drawn."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.image
import pandas as pd
import pytest

from results import plots
from results.blocks import tables
from transfer.record import Record
from transfer.runtime.errors import UserError

MakeRecord = Callable[..., Record]
Frame = Callable[..., pd.DataFrame]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures that are saved, kept open for inspection."""
    figures: list[Any] = []
    save = plots._save

    def keep(figure: Any, out: Path) -> None:
        save(figure, out)
        figures.append(figure)

    monkeypatch.setattr(plots, "_save", keep)
    return figures


def test_every_seed_is_a_point_and_the_mean_a_bar(
    record: MakeRecord, frame: Frame, tmp_path: Path, drawn: list[Any]
) -> None:
    runs = [record(seed=0, ap=40.0), record(seed=1, ap=44.0), record("VICReg", ap=None)]
    plots.plot_metric(tables(frame(*runs)), tmp_path / "plot.png")
    (panel,) = drawn[0].axes
    assert panel.get_xlim()[0] == 0
    assert panel.get_xlim()[1] > 64
    lines = [list(line.get_xdata()) for line in panel.lines]
    assert [62.0, 62.0] in lines
    assert [60.0, 64.0] in lines
    texts = [text.get_text().strip() for text in panel.texts]
    assert texts == ["62 ± 3 (2)", "failed (1)"]
    assert [label.get_text() for label in panel.get_yticklabels()] == ["MSBReg", "VICReg"]
    assert matplotlib.image.imread(tmp_path / "plot.png").std() > 0.05


def write_curve(work: Path, run: Record, text: str) -> None:
    path = work / run.task / run.run_id / "metrics.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text(text, encoding="utf-8")


def line(iteration: int, loss: float) -> str:
    return json.dumps({"iteration": iteration, "lr": 0.1, "loss": loss, "loss_rpn": 0.1}) + "\n"


def test_curves_are_drawn_and_absent_ones_named(
    record: MakeRecord, frame: Frame, tmp_path: Path, drawn: list[Any]
) -> None:
    present, absent = record(seed=0), record(seed=1)
    write_curve(tmp_path, present, line(0, 4.0) + line(1, 3.0) + '{"iteration": 2, "lo')
    said = plots.plot_curves(frame(present, absent), tmp_path, tmp_path / "curves.svg")
    assert len(said) == 1
    assert absent.run_id in said[0]
    raw = drawn[0].axes[0].lines[0]
    assert (list(raw.get_xdata()), list(raw.get_ydata())) == ([1, 2], [4.0, 3.0])
    assert (tmp_path / "curves.svg").read_bytes().startswith(b"<?xml")


def test_evaluations_on_the_way_are_no_points_of_a_loss_curve(record: MakeRecord, tmp_path: Path) -> None:
    run = record()
    evaluation = json.dumps({"iteration": 1, "test/AP": 12.5}) + "\n"
    write_curve(tmp_path, run, line(0, 4.0) + evaluation + line(2, 3.0))
    curve = plots.read_curve(tmp_path / run.task / run.run_id / "metrics.jsonl")
    assert curve["step"].tolist() == [1, 3]


@pytest.mark.parametrize("text", ["nonsense\n", '{"iteration": 1}\n', '{"iteration": 1, "loss": null}\n', "[]\n", ""])
def test_broken_curves_are_refused(record: MakeRecord, frame: Frame, tmp_path: Path, text: str) -> None:
    run = record()
    write_curve(tmp_path, run, text)
    with pytest.raises(UserError, match=r"metrics\.jsonl"):
        plots.plot_curves(frame(run), tmp_path, tmp_path / "curves.png")
    assert not (tmp_path / "curves.png").exists()


def test_what_cannot_be_drawn_is_said(record: MakeRecord, frame: Frame, tmp_path: Path) -> None:
    found = frame(record())
    with pytest.raises(UserError, match=r"cannot draw .*plot\.gif"):
        plots.plot_metric(tables(found), tmp_path / "plot.gif")
    with pytest.raises(UserError, match="no run has finished"):
        plots.plot_metric(tables(found.assign(status="failed").drop(columns=found.columns[-3:])), tmp_path / "plot.png")
    with pytest.raises(UserError, match="none of these runs has a loss curve"):
        plots.plot_curves(found, tmp_path, tmp_path / "curves.png")
    assert [path.name for path in tmp_path.iterdir()] == ["records"]
