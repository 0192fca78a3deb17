"""Bundles that another machine takes in, and model cards that the Hub reads."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from sample_records import record

import results
from results.bundle import MANIFEST, bundle, merge
from results.card import card
from transfer.record import Record, read_record, write_record
from transfer.runtime.errors import UserError

Frame = Callable[..., pd.DataFrame]


@pytest.fixture
def packed(folder: Callable[..., Path], tmp_path: Path) -> Path:
    """Three records, one of them failed, and one curve."""
    runs = [record("A", 0, 40.0, checkpoint_path="/home/jane/a.pth"), record("A", 1, 41.0), record("B", 0, None)]
    frame = results.load(folder(*runs))
    curve = tmp_path / "work" / runs[0].task / runs[0].run_id / "metrics.jsonl"
    curve.parent.mkdir(parents=True)
    curve.write_text('{"step": 1, "lr": 0.1, "loss": 2.0}\n{"step": 2, "lo', encoding="utf-8")
    assert bundle(frame, tmp_path / "work", tmp_path / "b.zip") == 3
    return tmp_path / "b.zip"


def test_a_bundle_arrives_as_it_left(packed: Path, tmp_path: Path) -> None:
    to, work = tmp_path / "there" / "records", tmp_path / "there" / "work"
    found = merge(packed, to, work)
    assert (len(found.new), found.same, found.conflicts, found.faults) == (3, [], [], [])
    here, there = results.load(tmp_path / "records"), results.load(to)
    assert list(there["checkpoint"]) == ["a.pth", "A.pth", "B.pth"]
    pd.testing.assert_frame_equal(here.drop(columns=["path", "checkpoint"]), there.drop(columns=["path", "checkpoint"]))
    (curve,) = work.rglob("metrics.jsonl")
    assert curve.read_text(encoding="utf-8") == '{"step": 1, "lr": 0.1, "loss": 2.0}\n'
    again = merge(packed, to, work)
    assert (again.new, len(again.same), again.line()) == ([], 3, "runs: 0 new, 3 already there")


def test_a_bundle_holds_no_path_and_no_weights_and_is_the_same_every_time(packed: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(packed) as opened:
        names = opened.namelist()
        assert not any(b"jane" in opened.read(name) or str(tmp_path).encode() in opened.read(name) for name in names)
    kinds = {name.partition("/")[0] for name in names}
    assert kinds == {MANIFEST, "records", "tables", "curves"}
    frame = results.load(tmp_path / "records")
    bundle(frame.iloc[::-1], tmp_path / "work", tmp_path / "c.zip")
    assert (tmp_path / "c.zip").read_bytes() == packed.read_bytes()


def test_other_numbers_are_a_conflict_and_change_nothing(packed: Path, tmp_path: Path) -> None:
    to = tmp_path / "there"
    path = write_record(record("A", 0, 45.0), to)
    better = write_record(record("B", 0, 50.0), to)
    before = path.read_bytes(), better.read_bytes()
    found = merge(packed, to, tmp_path / "w")
    assert len(found.new) == 1
    (message,) = found.conflicts
    assert "AP 45.000 and 40.000, 2 more" in message
    assert (path.read_bytes(), better.read_bytes()) == before  # the bundle's B failed


def test_a_finished_run_takes_the_place_of_a_failed_one(packed: Path, tmp_path: Path) -> None:
    path = write_record(record("A", 1, None), tmp_path / "there")
    merge(packed, tmp_path / "there", tmp_path / "w")
    assert read_record(path).status == "finished"


def rewritten(packed: Path, to: Path, change: Callable[[str, bytes], bytes | None], manifest: bool) -> Path:
    """The bundle with members changed or (None) left out; with a manifest that agrees, or the old one."""
    import hashlib

    with zipfile.ZipFile(packed) as opened:
        members = {name: opened.read(name) for name in opened.namelist()}
    changed = {name: new for name, old in members.items() if (new := change(name, old)) is not None}
    if manifest:
        digests = {name: hashlib.sha256(data).hexdigest() for name, data in changed.items() if name != MANIFEST}
        changed[MANIFEST] = json.dumps({"bundle": 1, "sha256": digests}).encode()
    with zipfile.ZipFile(to, "w") as opened:
        for name, data in changed.items():
            opened.writestr(name, data)
    return to


@pytest.mark.parametrize("damage", ["cut", "text", "changed", "gone", "no manifest"])
def test_a_damaged_bundle_is_refused_whole(packed: Path, tmp_path: Path, damage: str) -> None:
    bad = tmp_path / "bad.zip"
    if damage == "cut":
        bad.write_bytes(packed.read_bytes()[:-40])
    elif damage == "text":
        bad.write_text("nonsense", encoding="utf-8")
    else:
        victim = "records/" if damage != "no manifest" else MANIFEST
        new = None if damage in ("gone", "no manifest") else b"{}"
        rewritten(packed, bad, lambda name, old: new if name.startswith(victim) else old, manifest=False)
    with pytest.raises(UserError, match="no whole bundle"):
        merge(bad, tmp_path / "there", tmp_path / "w")
    assert not (tmp_path / "there").exists()


def test_a_record_that_is_none_is_named_and_the_others_taken(packed: Path, tmp_path: Path) -> None:
    def change(name: str, old: bytes) -> bytes:
        return old.replace(b'"seed": 1', b'"seed": 9') if name.startswith("records/") else old

    found = merge(rewritten(packed, tmp_path / "x.zip", change, manifest=True), tmp_path / "there", tmp_path / "w")
    assert len(found.new) == 2
    assert "its contents give" in found.faults[0]


def test_no_member_leaves_the_folders(packed: Path, tmp_path: Path) -> None:
    import hashlib

    data = b"{}"
    names = ["records/../../evil.json", "/abs/evil.json", "curves/../evil.jsonl"]
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as opened:
        for name in names:
            opened.writestr(name, data)
        digests = {name: hashlib.sha256(data).hexdigest() for name in names}
        opened.writestr(MANIFEST, json.dumps({"bundle": 1, "sha256": digests}))
    found = merge(tmp_path / "evil.zip", tmp_path / "in" / "there", tmp_path / "in" / "w")
    assert (found.new, found.faults) == ([], [])
    assert not list(tmp_path.rglob("evil.json*"))


def several(label: str, *values: float) -> list[Record]:
    return [record(label, seed, value) for seed, value in enumerate(values)]


def test_the_hub_reads_a_card(frame: Frame) -> None:
    hub = pytest.importorskip("huggingface_hub", reason="no huggingface_hub: pip install '.[hf]'")
    label = 'a: "b" & <script> שלום #'
    text = card(frame(*several(label, 40.0, 42.0), *several("random", 30.0, 31.0), record("C", 0, 50.0)), label)
    read = hub.ModelCard(text)
    assert read.data.model_name == label
    found = {result.metric_type: result for result in read.data.eval_results}
    assert set(found) == {"AP", "AP50", "AP75"}
    assert found["AP"].metric_value == 41.0
    assert (found["AP"].task_type, found["AP"].dataset_name) == ("object-detection", "BCCD")
    assert found["AP"].metric_name == "AP, mean of 2 seeds, standard deviation 1.41; as published (protocol moco)"
    assert "| random |" in text
    assert "| C |" not in text
    assert "<script>" not in text.partition("## Transfer")[2].replace("\\<script\\>", "")


def test_a_card_is_of_one_checkpoint(frame: Frame) -> None:
    found = frame(record("A"), record("A", 1, 41.0, checkpoint_sha256="9" * 64), record("B", 0, None))
    with pytest.raises(UserError, match="'A' names 2 different checkpoints"):
        card(found, "A")
    with pytest.raises(UserError, match="no finished run is of a checkpoint called 'B'"):
        card(found, "B")
