"""What the long ablation left in results/ablation is whole: the tables are those of the rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pretrain.ablation_report import report

FOLDER = Path(__file__).parents[2] / "results" / "ablation"


@pytest.mark.parametrize(
    ("part", "arch", "views"), [("quarter", "resnet18_quarter", 5e5), ("resnet18", "resnet18", 2.5e5)]
)
def test_the_tables_are_those_of_the_rows(part: str, arch: str, views: float, tmp_path: Path) -> None:
    rows = [json.loads(file.read_text(encoding="utf-8")) for file in sorted((FOLDER / part / "rows").glob("*.json"))]
    for row in rows:
        assert row["config"]["recipe"]["arch"] == arch
        assert row["forwarded_views"] == pytest.approx(0 if row["method"] == "random" else views, rel=1e-3)
    plain = [{name: value for name, value in row.items() if name not in ("config", "conditions")} for row in rows]
    csv, table, *_ = report(plain, tmp_path)
    for made in (csv, table):
        assert made.read_text(encoding="utf-8") == (FOLDER / part / made.name).read_text(encoding="utf-8")
