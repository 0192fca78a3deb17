"""Labels of any script in the plots of results."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from test_letters import NAMES

from results import plots
from results.blocks import tables
from transfer.record import Record


@pytest.mark.parametrize("kind", ["metric", "curves"])
def test_labels_of_any_script(
    kind: str, record: Callable[..., Record], frame: Callable[..., pd.DataFrame], tmp_path: Path
) -> None:
    labels = [name for name in NAMES if name.isprintable() or "\n" in name]  # a record is UTF-8
    runs = [record(label, seed=0, ap=40.0 + number) for number, label in enumerate(labels)]
    for run in runs:
        path = tmp_path / "work" / run.task / run.run_id / "metrics.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            "".join(json.dumps({"step": step, "loss": 1.0 / step}) + "\n" for step in (1, 2)), encoding="utf-8"
        )
    out = tmp_path / "plot.png"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if kind == "metric":
            plots.plot_metric(tables(frame(*runs)), out)
        else:
            assert plots.plot_curves(frame(*runs), tmp_path / "work", out) == []
    assert out.stat().st_size > 10_000
