"""Tables as data: what is averaged, what is kept apart, what is compared, and what is said about it."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_records import record

import results
from results.blocks import published, tables
from results.model import Block, Row, Tables
from transfer.record import Record, write_record
from transfer.runtime.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
Frame = Callable[..., pd.DataFrame]


def only(found: Tables) -> Block:
    assert len(found.blocks) == 1
    return found.blocks[0]


def named(block: Block) -> dict[str, Row]:
    return {row.name: row for row in block.rows if row.kind != "published"}


def several(label: str, *values: float | None, **changes: Any) -> list[Record]:
    return [record(label, seed, value, **changes) for seed, value in enumerate(values)]


def test_mean_and_sample_standard_deviation_by_hand(frame: Frame) -> None:
    # 40, 42, 47: mean 43, squared deviations 9 + 1 + 16 = 26, 26 / 2 = 13
    row = named(only(tables(frame(*several("A", 40.0, 42.0, 47.0)))))["A"]
    cell = row.cells[1]
    assert (cell.mean, cell.n, cell.total, cell.mark) == (43.0, 3, 3, "")
    assert cell.std == pytest.approx(math.sqrt(13))
    single = named(only(tables(frame(record("B")))))["B"].cells[0]
    assert (single.std, single.n) == (None, 1)


def test_cells_equal_the_frame_bit_for_bit() -> None:
    frame = results.load(ROOT / "results" / "records")
    count = 0
    for block in tables(frame, trainings=True, everything=True).blocks:
        for row in block.rows:
            for cell, head in zip(row.cells, block.columns, strict=True):
                if cell.state == "measured":
                    chosen = frame[frame["id"].isin([run for _, value, run in cell.runs if value is not None])]
                    assert cell.mean == chosen[f"metric.{head.metric}"].mean()
                    assert chosen[["engine", "recipe", "data_id", "task"]].drop_duplicates().shape[0] == 1
                    count += 1
    assert count > 60


APART: list[dict[str, Any]] = [
    {"engine": "detectron2"},
    {"recipe": {"lr": 0.1}},
    {"data": {"test": {"name": "other", "sha256": "9f" * 32, "images": 1, "boxes": 1}}},
    {"task_version": 2},
    {"checkpoint_sha256": "7" * 64},
    {"checkpoint_branch": "target"},
    {"checkpoint_arch": "resnet50"},
]


@pytest.mark.parametrize("changes", APART, ids=lambda changes: next(iter(changes)))
def test_nothing_but_seeds_is_averaged(frame: Frame, changes: dict[str, Any]) -> None:
    found = tables(frame(record("A", 0, 40.0), record("A", 1, 60.0, **changes)), everything=True)
    means = [cell.mean for block in found.blocks for row in block.rows for cell in row.cells if cell.mean is not None]
    assert {40.0, 60.0} <= set(means)
    assert 50.0 not in means


def test_engines_never_share_a_block(frame: Frame) -> None:
    runs = [*several("A", 40.0, 41.0), *several("B", 42.0, 41.0)]
    runs += [*several("A", 50.0, 51.0, engine="detectron2"), *several("B", 52.0, 51.0, engine="detectron2")]
    found = tables(frame(*runs)).blocks
    assert [block.engine for block in found] == ["detectron2", "mmdet"]
    assert len({block.key for block in found}) == 2


def test_failed_runs_are_counted_and_never_averaged(frame: Frame) -> None:
    block = only(tables(frame(*several("A", 40.0, None, 42.0), *several("B", None, None))))
    rows = named(block)
    assert (rows["A"].cells[0].n, rows["A"].cells[0].total) == (2, 3)
    assert rows["B"].cells[0].state == "failed"
    assert block.notes == (
        "× A, seed 1: TrainingError: the loss is nan",
        "× B, seeds 0, 1: TrainingError: the loss is nan",
    )
    assert {"×", "(2/3)"} <= dict(block.legend).keys()


def test_two_runs_by_their_own_authors_protocol_are_no_comparison(frame: Frame) -> None:
    runs = [*several("A", 50.0, 50.1, 50.0), *several("B", 45.0, 45.1, 45.1)]
    theirs = {"recipe": {"lr": 2}, "authors_own": True}
    runs += several("C", 90.0, 90.1, 90.0, **theirs) + several("D", 80.0, 80.1, 80.0, **theirs)
    block = only(tables(frame(*runs)))
    assert [(row.name, row.kind) for row in block.rows if row.kind != "published"] == [
        *(("A", "competitor"), ("B", "competitor"), ("C", "other recipe"), ("D", "other recipe"))
    ]
    assert block.notes[0].startswith("† C: the protocol of its own authors")


def test_marks_are_of_competitors_alone(frame: Frame) -> None:
    runs = [*several("A", 50.0, 50.1, 50.0), *several("B", 45.0, 45.1, 45.1), *several("C", 40.0, 40.2, 40.1)]
    runs += several("Supervised", 60.0, 60.1, 60.0) + several("random", 70.0, 70.1, 70.2)
    changed = [{"what": "lr", "protocol": "1", "run": "2"}]
    runs += several("D", 90.0, 90.1, 90.0, recipe={"lr": 2}, differences=changed)
    block = only(tables(frame(*runs)))
    assert [(row.name, row.kind, row.cells[0].mark) for row in block.rows if row.kind != "published"] == [
        ("A", "competitor", "*"),
        ("B", "competitor", "+"),
        ("C", "competitor", ""),
        ("D", "other recipe", ""),
        ("random", "baseline", ""),
        ("Supervised", "baseline", ""),
    ]
    assert block.sentence == "A is best in 3 of 3 columns, beyond the noise."
    assert block.notes == ("† D: lr 2",)
    assert block.columns[0].best == 0


def test_nobody_is_best_within_the_noise(frame: Frame) -> None:
    block = only(tables(frame(*several("A", 50.0, 40.0, 45.0), *several("B", 44.0, 46.0, 43.0))))
    assert block.sentence == "No column of 3 is decided: the gaps are within the noise."
    assert {row.cells[0].mark for row in named(block).values()} == {"≈"}


def test_one_competitor_stands_against_its_baselines(frame: Frame) -> None:
    runs = (
        several("A", 50.0, 50.1, 50.3) + several("random", 40.0, 40.1, 40.2) + several("supervised", 50.1, 50.0, 50.4)
    )
    assert only(tables(frame(*runs))).sentence == (
        "A: above random in 3 of 3; not told from supervised in 3 of 3 columns (paired seeds)."
    )


def test_single_runs_are_called_so(frame: Frame) -> None:
    block = only(tables(frame(record("A"), record("B"))))
    assert block.sentence == "Single runs: nothing is known about the noise of seeds."
    assert "(1)" in dict(block.legend)


def test_trainings_of_one_label_are_one_row_when_asked(frame: Frame) -> None:
    runs = [record("A", seed, 50.0 + seed, checkpoint_sha256=str(seed) * 64) for seed in range(3)]
    found = frame(*runs, *several("B", 40.0, 41.0, 42.0))
    apart = tables(found)
    names = [row.name for row in only(apart).rows if row.kind == "competitor"]
    assert names == ["A 222222", "A 111111", "A 000000", "B"]
    assert apart.same == ("A",)
    together = named(only(tables(found, trainings=True)))
    assert together["A (3 trainings)"].cells[1].mean == 51.0
    assert together["A (3 trainings)"].trainings == 3
    twice = frame(*runs, record("A", 0, 60.0, checkpoint_sha256="9" * 64))
    assert len(named(only(tables(twice, trainings=True)))) == 5  # with B: two of one seed: which belongs in the row?


def test_random_weights_of_every_seed_are_one_baseline(frame: Frame) -> None:
    drawn = [
        record("random", seed, 30.0 + seed, checkpoint_format="random", checkpoint_sha256=str(seed) * 64)
        for seed in range(3)
    ]
    rows = named(only(tables(frame(record("AAA"), *drawn))))
    assert (rows["random"].cells[0].n, rows["random"].kind) == (3, "baseline")


def test_runs_that_compare_nothing_are_counted(frame: Frame) -> None:
    runs = [*several("A", 40.0, 41.0), *several("B", 42.0, 43.0)]
    runs += [record("A", 5, 99.0, recipe={"overfit": 8}), record("A", 6, 0.0, recipe={"detector": {"iterations": 0}})]
    runs += [record("A", 7, 50.0, engine="detectron2"), record("C", 0, 44.0, recipe={"lr": 7})]
    found = frame(*runs)
    hidden = tables(found)
    assert hidden.hidden_line.startswith("not shown: 4 of 8 runs (")
    shown = tables(found, everything=True)
    assert shown.hidden == ()
    runs_of = {run for block in shown.blocks for row in block.rows for cell in row.cells for _, _, run in cell.runs}
    assert runs_of == set(found["id"])


def test_what_there_is_is_shown_where_nothing_can_be_compared(frame: Frame) -> None:
    assert named(only(tables(frame(record("A", 0, 40.0)))))["A"].cells[0].mean == 60.0


def test_published_rows_stand_only_beside_runs_of_the_protocol(frame: Frame) -> None:
    as_published = only(tables(frame(*several("A", 40.0, 41.0), *several("B", 42.0, 43.0))))
    rows = as_published.of("published")
    assert {row.name for row in rows} >= {"Barlow Twins", "MoCo v2, 800 epochs"}
    assert all(cell.mark == "" and cell.mean is None for row in rows for cell in row.cells)
    changed = {"differences": [{"what": "lr", "protocol": "1", "run": "2"}]}
    assert (
        only(tables(frame(*several("A", 4.0, 5.0, **changed), *several("B", 4.0, 5.0, **changed)))).of("published")
        == []
    )
    assert [block.layout for block in published(["detection.voc"])] == ["detection-c4"]


def test_digits_follow_the_noise(frame: Frame) -> None:
    noisy = only(tables(frame(*several("A", 40.0, 44.0), *several("B", 42.0, 43.0))))
    quiet = only(tables(frame(*several("A", 40.0, 40.4), *several("B", 42.0, 42.9))))
    assert ({head.decimals for head in noisy.columns}, {head.decimals for head in quiet.columns}) == ({0}, {1})


def test_metrics_can_be_chosen_and_unknown_ones_are_refused(frame: Frame) -> None:
    found = frame(*several("A", 40.0, 41.0), *several("B", 42.0, 43.0))
    assert [head.metric for head in only(tables(found, metrics=["AP75", "AP"])).columns] == ["AP75", "AP"]
    with pytest.raises(UserError, match="no run has the metric mAP"):
        tables(found, metrics=["mAP"])


def test_a_task_of_no_paper_has_a_table_of_its_own(frame: Frame) -> None:
    changes = {"task": "transfer.new", "metrics": {"zeta": 1.0, "alpha": 2.0}, "primary_metric": "zeta"}
    block = only(tables(frame(record("A", 0, 1.0, **changes))))
    assert (block.title, [head.metric for head in block.columns]) == ("transfer.new", ["zeta", "alpha"])


def test_unproven_weights_are_marked(frame: Frame) -> None:
    block = only(tables(frame(record("A", verification={}), record("B"))))
    assert [row.unproven for row in named(block).values()] == [True, False]


@settings(deadline=None, max_examples=3)
@given(st.data())
def test_the_order_of_records_changes_nothing(data: st.DataObject) -> None:
    import tempfile

    runs = [record(label, seed, 40.0 + seed) for label in ("A", "B") for seed in range(3)]
    runs += [record("A", seed, 30.0, engine="detectron2") for seed in range(2)] + [record("B", 7, None)]
    found = []
    for order in (runs, data.draw(st.permutations(runs))):
        with tempfile.TemporaryDirectory() as folder:
            for place, one in enumerate(order):
                write_record(one, Path(folder) / str(place % 2))
            found.append(tables(results.load(folder), everything=True))
    assert found[0] == found[1]


def test_two_networks_of_one_file_have_two_names(frame: Frame) -> None:
    block = only(tables(frame(record("A"), record("A", 1, 42.0, checkpoint_branch="target"))))
    names = [row.name for row in block.of("competitor")]
    assert len(set(names)) == 2
    assert {name.rpartition(" ")[2] for name in names} == {"online", "target"}
