"""Tables: what is averaged, what is kept apart, and what is said about it."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from results import table
from results.evidence import load
from results.layout import Block, Footnotes, as_markdown, as_text
from results.rows import group, tidy
from transfer.errors import UserError
from transfer.record import Record

MakeRecord = Callable[..., Record]


def only(blocks: list[Block]) -> Block:
    assert len(blocks) == 1
    return blocks[0]


def cells(block: Block) -> list[dict[str, str]]:
    return [{head: cell.strip() for head, cell in zip(block.headers, row, strict=True)} for row in block.rows]


def test_mean_and_sample_standard_deviation_by_hand(record: MakeRecord) -> None:
    # 40, 42, 47: mean 43, squared deviations 9 + 1 + 16 = 26, 26 / 2 = 13, √13 = 3.606
    rows = group([record(seed=seed, ap=ap) for seed, ap in enumerate((40.0, 42.0, 47.0))])
    cell = rows[0].cell("AP")
    assert cell is not None
    assert (cell.mean, cell.n) == (43.0, 3)
    assert cell.std == pytest.approx(math.sqrt(13))
    shown = cells(only(table.blocks(rows)))
    assert shown == [
        {
            "checkpoint": "MSBReg (resnet18)", "engine": "mmdet", "runs": "3",
            "AP": "43.0 ± 3.6", "AP50": "63.0 ± 3.6", "AP75": "38.0 ± 3.6", "notes": "",
        }
    ]  # fmt: skip


def test_a_single_run_has_no_spread(record: MakeRecord) -> None:
    block = only(table.blocks(group([record()])))
    assert cells(block)[0]["AP"] == "40.0"
    assert cells(block)[0]["runs"] == "1"
    assert any("single runs" in line for line in block.lines)


def test_failed_runs_are_shown_and_never_averaged(record: MakeRecord) -> None:
    rows = group([record(seed=0), record(seed=1, ap=None), record("VICReg", ap=None), record("VICReg", 1, None)])
    block = only(table.blocks(rows))
    ours, theirs = cells(block)
    assert (ours["runs"], ours["AP"]) == ("1, 1 failed", "40.0")
    assert (theirs["runs"], theirs["AP"]) == ("2 failed", "failed (2)")
    assert "Seed 1 failed: TrainingError: the loss is nan." in [text for _, text in block.footnotes]


def test_the_missing_metric_of_one_run_is_counted(record: MakeRecord) -> None:
    rows = group([record(seed=0, metrics={"AP": 40.0, "AR": 50.0}), record(seed=1, metrics={"AP": 42.0})])
    shown = cells(only(table.blocks(rows)))[0]
    assert (shown["AP"], shown["AR"]) == ("41.0 ± 1.4", "50.0 (n=1)")


APART: list[tuple[str, dict[str, Any]]] = [
    ("engine", {"engine": "detectron2"}),
    ("recipe", {"recipe": {"lr": 0.1}}),
    ("protocol", {"protocol": "vicreg"}),
    ("data", {"data": {"train": {"name": "other", "sha256": "9f" * 32, "images": 1, "boxes": 1}}}),
    ("task version", {"task_version": 2}),
    ("differences", {"differences": [{"what": "GPUs", "protocol": "8", "run": "1"}]}),
    ("weights", {"checkpoint_sha256": "7" * 64}),
    ("branch", {"checkpoint_branch": "target"}),
    ("architecture", {"checkpoint_arch": "resnet50"}),
]


@pytest.mark.parametrize("changes", [change for _, change in APART], ids=[name for name, _ in APART])
def test_nothing_but_seeds_is_averaged(record: MakeRecord, changes: dict[str, Any]) -> None:
    rows = group([record(seed=0, ap=40.0), record(seed=1, ap=60.0, **changes)])
    block = only(table.blocks(rows))
    assert sorted(row["AP"] for row in cells(block)) == ["40.0", "60.0"]
    # Two rows that look alike would be worse than one: they differ in what the table itself says.
    told = [(row["checkpoint"], row["engine"], row["notes"]) for row in cells(block)]
    assert len(set(told)) == 2


@settings(deadline=None, max_examples=15)
@given(st.data())
def test_the_order_of_files_changes_nothing(data: st.DataObject) -> None:
    from sample_records import record

    runs = [record(label, seed, 40.0 + seed) for label in ("A", "B") for seed in range(3)]
    runs += [record("A", seed, 30.0, engine="detectron2") for seed in range(2)] + [record("B", 7, None)]
    shuffled = data.draw(st.permutations(runs))
    assert as_text(table.blocks(group(shuffled))) == as_text(table.blocks(group(runs)))


def test_random_backbones_of_every_seed_are_one_baseline_and_come_first(record: MakeRecord) -> None:
    drawn = [
        record("random", seed, 30.0 + seed, checkpoint_format="random", checkpoint_sha256=str(seed) * 64)
        for seed in range(3)
    ]
    shown = cells(only(table.blocks(group([record("AAA"), *drawn]))))
    assert [(row["checkpoint"], row["runs"]) for row in shown] == [("random (resnet18)", "3"), ("AAA (resnet18)", "1")]


def test_notes_say_what_a_reader_must_know(record: MakeRecord) -> None:
    differences = [{"what": "batch", "protocol": "16", "run": "2"}]
    rows = group(
        [
            record(seed=0, differences=differences, git_dirty=True, notes=["one box was empty"]),
            record(seed=1, differences=differences, git_commit="d" * 40, versions={"torch": "2.12.0"}),
            record("VICReg"),
        ]
    )
    block = only(table.blocks(rows))
    ours, theirs = cells(block)
    texts = dict(block.footnotes)
    assert [texts[mark] for mark in ours["notes"].split(", ")] == [
        "Differs from protocol moco: batch 2 (published: 16).",
        "one box was empty.",
        "Made by code that no commit holds (uncommitted changes, or no repository).",
        "The runs of this row were made by 2 commits: cccccccccccc, dddddddddddd.",
        "The runs of this row were made with different versions: torch 2.11.0 and 2.12.0.",
    ]
    assert [texts[mark] for mark in theirs["notes"].split(", ")] == ["As published in protocol moco."]


def test_recipes_that_look_alike_are_told_apart_by_their_values(record: MakeRecord) -> None:
    rows = group([record(seed=0, recipe={"a": {"lr": 0.1}, "b": 1}), record(seed=0, recipe={"a": {"lr": 0.2}, "b": 1})])
    texts = [text for _, text in only(table.blocks(rows)).footnotes]
    assert any(text.endswith(": a.lr 0.1.") for text in texts)
    assert any(text.endswith(": a.lr 0.2.") for text in texts)


def other_task(record: MakeRecord, label: str, value: float | None, **changes: Any) -> Record:
    metrics = {"metrics": {"mAP": value}} if value is not None else {}
    return record(label, ap=value, task="transfer.voc07", engine="", primary_metric="mAP", **metrics, **changes)


def test_the_grid_shows_what_was_not_run(record: MakeRecord) -> None:
    runs = [record("A", 0, 40.0), record("A", 1, 42.0), record("B", 0, None), other_task(record, "A", 80.0)]
    runs.append(other_task(record, "C", 70.0))
    *_, grid = table.blocks(group(runs))
    assert grid.headers == ("checkpoint", "engine", "detection.voc AP", "transfer.voc07 mAP")
    shown = [[cell.strip() for cell in row] for row in grid.rows]
    assert shown[0] == ["A (resnet18)", "mmdet", "41.0 ± 1.4 (n=2)", "80.0 (n=1)"]
    assert shown[1][2].startswith("failed (1)")
    assert shown[1][3] == "–"
    assert shown[2] == ["C (resnet18)", "–", "–", "70.0 (n=1)"]


def test_the_grid_gives_a_second_variant_a_line_of_its_own(record: MakeRecord) -> None:
    runs = [record("A", 0, 40.0), record("A", 0, 50.0, protocol="vicreg", recipe={}), other_task(record, "A", 80.0)]
    *_, grid = table.blocks(group(runs))
    assert [row[2].split()[0] for row in grid.rows] == ["40.0", "50.0"]
    assert [row[3] for row in grid.rows] == ["80.0 (n=1)", "–"]


def test_metrics_can_be_chosen_and_unknown_ones_are_refused(record: MakeRecord) -> None:
    rows = group([record()])
    assert only(table.blocks(rows, ["AP75", "AP"])).headers == ("checkpoint", "engine", "runs", "AP75", "AP", "notes")
    with pytest.raises(UserError, match="no run has the metric mAP"):
        table.blocks(rows, ["mAP"])


def test_a_task_without_the_chosen_metrics_keeps_its_primary_one(record: MakeRecord) -> None:
    voc, svm, _ = table.blocks(group([record("A"), other_task(record, "A", 80.0)]), ["AP50"])
    assert (voc.headers[3:-1], svm.headers[3:-1]) == (("AP50",), ("mAP",))
    lost = only(table.blocks(group([record(ap=None)]), ["AP50"]))
    assert cells(lost)[0]["AP"] == "failed (1)"
    assert "No run has finished." in lost.lines


def test_the_primary_metric_comes_first(record: MakeRecord) -> None:
    rows = group([record(primary_metric="AP75")])
    assert only(table.blocks(rows)).headers[3:6] == ("AP75", "AP", "AP50")


def test_sizes_of_objects_are_kept_aside_until_asked_for(record: MakeRecord) -> None:
    rows = group([record(metrics={"AP": 40.0, "AP50": 60.0, "APs": 10.0, "box_APl": 50.0, "AR100": 45.0})])
    shown = only(table.blocks(rows))
    assert shown.headers[3:-1] == ("AP", "AP50")
    assert shown.lines[-1] == "Not shown (--metrics does): APs, AR100, box_APl."
    assert only(table.blocks(rows, ["APs"])).headers[3:-1] == ("APs",)


def test_tidy_keeps_full_precision_and_survives_csv(record: MakeRecord) -> None:
    frame = tidy(group([record(seed=0, ap=1 / 3), record(seed=1, ap=2 / 3), record("VICReg", ap=None)]))
    again = pd.read_csv(io.StringIO(frame.to_csv(index=False)))
    ap = again[(again["metric"] == "AP") & (again["checkpoint"] == "MSBReg")].iloc[0]
    assert ap["mean"] == pytest.approx(0.5, abs=1e-15)
    assert ap["std"] == pytest.approx(math.sqrt(2 * (1 / 6) ** 2), abs=1e-15)
    assert (ap["n"], ap["finished"], ap["failed"], ap["seeds"]) == (2, 2, 0, "0 1")
    lost = again[again["checkpoint"] == "VICReg"].iloc[0]
    assert math.isnan(lost["mean"])
    assert (lost["n"], lost["failed"]) == (0, 1)


# -- loading


def test_a_run_in_two_folders_counts_once_and_the_finished_one_wins(record: MakeRecord, tmp_path: Path) -> None:
    from transfer.record import write_record

    write_record(record(ap=None, utc="2026-02-02T00:00:00Z"), tmp_path / "a")
    write_record(record(ap=40.0), tmp_path / "b")
    for folders in (("a", "b"), ("b", "a")):
        found = load([tmp_path / name for name in folders])
        assert [run.status for run in found.records] == ["finished"]


def test_what_is_not_there_is_said(record: MakeRecord, folder: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no folder"):
        load([tmp_path / "nowhere"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no records to show") as caught:
        load([tmp_path / "empty"])
    assert "run_voc.sh" in caught.value.todo
    with pytest.raises(UserError, match=r"no records of detection\.coco") as caught:
        load([folder(record())], ["detection.coco"])
    assert "detection.voc" in caught.value.found


# -- text


@given(st.lists(st.text(), max_size=60))
def test_a_text_has_one_mark_and_a_mark_one_text(texts: list[str]) -> None:
    footnotes = Footnotes()
    marks = [footnotes.mark(text) for text in texts]
    assert len(set(zip(texts, marks, strict=True))) == len(set(texts)) == len(set(marks))
    assert dict(footnotes.items()) == dict(zip(marks, texts, strict=True))


def test_marks_go_on_after_z() -> None:
    footnotes = Footnotes()
    marks = [footnotes.mark(str(number)) for number in range(54)]
    assert marks[:2] + marks[25:28] + marks[51:] == ["a", "b", "z", "aa", "ab", "az", "ba", "bb"]


def test_columns_line_up_and_markdown_is_escaped() -> None:
    block = Block("t", ("line",), ("name", "x"), (("a|b_c", "41.0 ± 0.2"), ("d", " 5.0")), (("a", "why"),))
    head, rule, first, second = as_text([block]).splitlines()[3:7]
    assert first.index("1.0") == second.index("5.0")
    assert head.index("x") == second.rindex(" 5.0")
    assert len(rule) == len(first)
    assert as_markdown([block]).splitlines()[4:8] == [
        "| name | x |",
        "| --- | --- |",
        r"| a\|b\_c | 41.0 ± 0.2 |",
        "| d | 5.0 |",
    ]


def test_the_data_caption_says_how_many_boxes_count(record: MakeRecord) -> None:
    objects = {
        "train": {"annotated": 2777, "marked iscrowd": 777, "trained_on": 2000, "images_trained_on": 200},
        "test": {"annotated": 1000, "to_find": 1000, "images_to_find": 72},
    }
    (caption,) = [
        line for line in only(table.blocks(group([record(details={"objects": objects})]))).lines if "Data" in line
    ]
    assert "BCCD_train (205 images, 2777 boxes, 2000 of 2777 objects trained on, sha256" in caption
    assert "BCCD_test (72 images, 1000 boxes, sha256" in caption
