"""Folders of features: kept, checked, damaged, taken up again."""

from __future__ import annotations

import hashlib
import json
import logging
import multiprocessing
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transfer.classification import feature_cache
from transfer.classification.feature_cache import Store, key
from transfer.runtime.errors import UserError

WIDTH, COUNT = 3, 11
IDENTITY: dict[str, Any] = {"checkpoint": {"sha256": "aa", "mean": (0.5, 0.5)}, "pooling": "avg"}
CONDITIONS = {"torch": "2"}
WEIGHTS = "ab" * 32
PROOF = {"weights": WEIGHTS, "tensors": 100, "stage_error": {"layer1": 1e-7}}
FEATURES = np.random.default_rng(0).standard_normal((COUNT, WIDTH)).astype(np.float32)
DIGESTS = np.random.default_rng(1).integers(0, 256, (COUNT, 16), dtype=np.uint8)
CHUNKS = [(0, 4), (4, 8), (8, 11)]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_cache, "ROWS", 4)


def opened(folder: Path, identity: dict[str, Any] = IDENTITY, conditions: dict[str, Any] = CONDITIONS) -> Store:
    store = Store(folder, COUNT, WIDTH, WEIGHTS)
    with store.alone():
        store.open(identity, conditions)
    return store


def keep(store: Store, chunks: list[tuple[int, int]], rank: int = 0) -> None:
    store.vouch(PROOF)
    for start, stop in chunks:
        reasons = {row: "torn" for row in (5,) if start <= row < stop}
        store.keep((start, stop), FEATURES[start:stop], DIGESTS[start:stop], reasons, rank)


def filled(folder: Path) -> Store:
    store = opened(folder)
    keep(store, CHUNKS)
    store.finish({5: "five.jpg"})
    return store


def test_round_trip(tmp_path: Path) -> None:
    filled(tmp_path)
    store = opened(tmp_path)
    assert store.chunks() == CHUNKS
    assert sorted(store.finished) == CHUNKS
    assert store.finished[4, 8].unreadable == {5: "torn"}
    np.testing.assert_array_equal(np.load(tmp_path / "features.npy"), FEATURES)  # readable by numpy alone
    np.testing.assert_array_equal(store.all_digests(), DIGESTS)
    assert not store.array().flags.writeable
    assert json.loads((tmp_path / "done.json").read_text(encoding="utf-8"))["unreadable"] == ["five.jpg"]


@settings(deadline=None, max_examples=60)
@given(
    ranks=st.lists(st.tuples(st.sampled_from(CHUNKS), st.integers(0, 2)), unique_by=lambda pair: pair[0]),
    file=st.sampled_from(["features.npy", "digests.npy", "progress.jsonl", "progress-1.jsonl"]),
    place=st.integers(0, 10**6),
    flip=st.integers(1, 255),
)
def test_after_any_flipped_byte_what_is_finished_is_what_was_kept(
    ranks: list[tuple[tuple[int, int], int]], file: str, place: int, flip: int
) -> None:
    with tempfile.TemporaryDirectory() as name:
        store = opened(Path(name))
        for rows, rank in ranks:
            keep(store, [rows], rank)
        path = Path(name, file)
        if path.exists() and path.stat().st_size:
            content = bytearray(path.read_bytes())
            content[place % len(content)] ^= flip
            path.write_bytes(content)
        again = opened(Path(name))
        assert set(again.finished) <= {rows for rows, _ in ranks}
        lost = len(ranks) - len(again.finished)
        lines_or_headers = file.startswith("progress") or place % max(1, path.stat().st_size) < 128
        assert lost <= (len(ranks) if lines_or_headers else 1)
        for start, stop in again.finished:
            np.testing.assert_array_equal(again.array()[start:stop], FEATURES[start:stop])
            np.testing.assert_array_equal(again.all_digests()[start:stop], DIGESTS[start:stop])
            assert again.finished[start, stop].unreadable == ({5: "torn"} if start == 4 else {})
        # What is missing can be filled in, and then all is there.
        keep(again, [rows for rows in CHUNKS if rows not in again.finished])
        assert sorted(opened(Path(name)).finished) == CHUNKS


def test_a_damaged_chunk_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = filled(tmp_path)
    content = bytearray(store.features.read_bytes())
    content[128 + 4 * WIDTH * 9] ^= 1  # row 9
    store.features.write_bytes(content)
    again = opened(tmp_path)
    assert sorted(again.finished) == CHUNKS[:2]
    assert "rows 8–10 do not fit" in caplog.text
    assert not (tmp_path / "done.json").exists()


@pytest.mark.parametrize("file", ["features.npy", "digests.npy"])
@pytest.mark.parametrize("left", [0, 60, 129, -5])
def test_a_truncated_file_loses_only_what_is_gone(tmp_path: Path, file: str, left: int) -> None:
    filled(tmp_path)
    content = (tmp_path / file).read_bytes()
    (tmp_path / file).write_bytes(content[:left])
    again = opened(tmp_path)
    assert sorted(again.finished) == (CHUNKS[:2] if left == -5 else [])
    assert (tmp_path / file).stat().st_size == len(content)
    keep(again, CHUNKS)
    np.testing.assert_array_equal(opened(tmp_path).array(), FEATURES)


def test_a_line_cut_in_half_by_a_kill_does_not_spoil_the_next(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    keep(opened(tmp_path), CHUNKS[:2])
    progress = tmp_path / "progress.jsonl"
    progress.write_bytes(progress.read_bytes()[:-30])
    again = opened(tmp_path)
    assert sorted(again.finished) == CHUNKS[:1]
    assert "do not fit" not in caplog.text  # nothing is wrong after a kill
    keep(again, CHUNKS[1:])
    assert sorted(opened(tmp_path).finished) == CHUNKS


def test_progress_of_many_processes_is_taken_together(tmp_path: Path) -> None:
    store = opened(tmp_path)
    for rank, rows in enumerate(CHUNKS[:2]):
        keep(store, [rows], rank)
    assert sorted(opened(tmp_path).finished) == CHUNKS[:2]
    assert [path.name for path in tmp_path.glob("progress*")] == ["progress.jsonl"]


@pytest.mark.parametrize(
    ("identity", "subject"),
    [
        (IDENTITY | {"checkpoint": {"sha256": "bb", "mean": (0.5, 0.5)}}, "checkpoint"),
        (IDENTITY | {"pooling": "max"}, "extraction"),
    ],
)
def test_the_folder_of_something_else_is_refused(tmp_path: Path, identity: dict[str, Any], subject: str) -> None:
    filled(tmp_path)
    with pytest.raises(UserError, match=f"cache from another {subject}") as caught:
        opened(tmp_path, identity)
    assert ("aa there, bb here" if subject == "checkpoint" else "avg there, max here") in caught.value.found
    assert f"remove the folder {tmp_path}" in caught.value.todo


@pytest.mark.parametrize("text", ["", "{", "[]", '{"identity": {}}'])
def test_a_damaged_meta_is_refused(tmp_path: Path, text: str) -> None:
    filled(tmp_path)
    (tmp_path / "meta.json").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=r"cannot read .*meta\.json"):
        opened(tmp_path)


def no_proof(folder: Path) -> None:
    (folder / "proof.json").unlink()


def a_broken_proof(folder: Path) -> None:
    (folder / "proof.json").write_text('{"proofs": [{"tensors": 1', encoding="utf-8")


def an_empty_proof(folder: Path) -> None:
    (folder / "proof.json").write_text('{"proofs": []}', encoding="utf-8")


def the_proof_of_others(folder: Path) -> None:
    (folder / "proof.json").write_text(
        json.dumps({"proofs": [PROOF, PROOF | {"weights": "cd" * 32}]}), encoding="utf-8"
    )


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (no_proof, "no proof"),
        (a_broken_proof, "cannot be read"),
        (an_empty_proof, "empty"),
        (the_proof_of_others, "other weights"),
    ],
)
def test_features_are_given_up_without_the_proof_that_they_were_made_under(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, spoil: Callable[[Path], None], said: str
) -> None:
    filled(tmp_path)
    assert opened(tmp_path).proofs == [PROOF]
    spoil(tmp_path)
    again = opened(tmp_path)
    assert not again.finished
    assert not again.proofs
    assert said in caplog.text
    assert "computed again" in caplog.text
    assert not (tmp_path / "done.json").exists()
    assert not any(path.read_bytes() for path in tmp_path.glob("progress*"))


def test_a_proof_put_beside_features_that_were_made_without_is_of_no_use(tmp_path: Path) -> None:
    """The checksum of an older version, written out: over rows, reasons and bytes, and no weights."""
    store = opened(tmp_path)
    store.vouch(PROOF)
    for start, stop in CHUNKS:
        store.keep((start, stop), FEATURES[start:stop], DIGESTS[start:stop], {})
    lines = []
    for start, stop in CHUNKS:
        seen = hashlib.blake2b(json.dumps([[start, stop], []]).encode(), digest_size=32)
        seen.update(FEATURES[start:stop].tobytes() + DIGESTS[start:stop].tobytes())
        lines.append(json.dumps({"rows": [start, stop], "checksum": seen.hexdigest(), "unreadable": {}}) + "\n")
    assert sorted(opened(tmp_path).finished) == CHUNKS
    (tmp_path / "progress.jsonl").write_text("".join(lines), encoding="utf-8")
    assert not opened(tmp_path).finished


def test_other_versions_are_reported_and_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    filled(tmp_path)
    opened(tmp_path)
    assert not caplog.records
    store = opened(tmp_path, conditions={"torch": "3"})
    assert sorted(store.finished) == CHUNKS
    assert store.remarks == ["torch was 2 and is now 3"]
    assert "torch was 2 and is now 3" in caplog.text


def test_a_folder_remembers_the_conditions_of_all_who_wrote_to_it(tmp_path: Path) -> None:
    keep(opened(tmp_path, conditions={"threads": 1}), CHUNKS[:1])
    second = opened(tmp_path, conditions={"threads": 2})
    assert second.remarks == ["the number of CPU threads was 1 and is now 2"]
    keep(second, CHUNKS[1:])
    second.finish({})
    assert opened(tmp_path, conditions={"threads": 1}).remarks == ["the number of CPU threads was 2 and is now 1"]
    assert opened(tmp_path, conditions={"threads": 3}).remarks == [
        "the number of CPU threads was 1 and is now 3",
        "the number of CPU threads was 2 and is now 3",
    ]


def test_a_folder_of_older_code_holds_one_set_of_conditions(tmp_path: Path) -> None:
    filled(tmp_path)
    meta = tmp_path / "meta.json"
    content = json.loads(meta.read_text(encoding="utf-8"))
    meta.write_text(json.dumps(content | {"conditions": {"torch": "1"}}), encoding="utf-8")
    assert opened(tmp_path).remarks == ["torch was 1 and is now 2"]


def test_not_done_while_chunks_are_missing(tmp_path: Path) -> None:
    store = opened(tmp_path)
    keep(store, CHUNKS[:2])
    with pytest.raises(UserError, match="1 of 3 chunks"):
        store.finish({})
    assert not (tmp_path / "done.json").exists()


def test_a_folder_that_only_one_process_sees(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot write"):
        keep(Store(tmp_path / "elsewhere", COUNT, WIDTH, WEIGHTS), CHUNKS)


def test_key_depends_on_values_and_not_on_the_order_of_names() -> None:
    assert key({"a": 1, "b": {"c": 2, "d": 3}}) == key({"b": {"d": 3, "c": 2}, "a": 1})
    assert key({"a": 1, "b": 2}) != key({"a": 2, "b": 1})


def hold(folder: Path, held: Any, release: Any) -> None:
    with Store(folder, COUNT, WIDTH, WEIGHTS).alone():
        held.set()
        release.wait(30)


def test_the_second_says_that_it_waits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    context = multiprocessing.get_context("fork")
    held, release = context.Event(), context.Event()
    other = context.Process(target=hold, args=(tmp_path, held, release))
    other.start()
    assert held.wait(30)

    class Releasing(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            release.set()  # only once we are seen to wait

    handler = Releasing()
    logging.getLogger("transfer.runtime.files").addHandler(handler)
    try:
        with caplog.at_level(logging.INFO), Store(tmp_path, COUNT, WIDTH, WEIGHTS).alone():
            assert "another process fills" in caplog.text
    finally:
        logging.getLogger("transfer.runtime.files").removeHandler(handler)
        other.join(30)
    assert other.exitcode == 0
