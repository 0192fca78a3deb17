"""Records: what is written is what is read, and nothing that is not exactly a record is read at all."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from results.index import read_folder
from transfer import record as records
from transfer.record import Record, RecordError, read_record, run_id, write_record
from transfer.runtime.errors import UserError

ROOT = Path(__file__).resolve().parents[2]

DECISIVE: dict[str, Any] = {
    "task": "detection.voc",
    "task_version": 1,
    "sha256": "ab" * 32,
    "branch": "online",
    "engine": "mmdet",
    "recipe": {"detector": {"lr": 0.02, "steps": [18000, 22000], "neck": "c4"}, "flip": 0.5},
    "data_fingerprints": {"train": {"name": "t", "sha256": "cd" * 32, "images": 3, "boxes": 9}},
    "seed": 0,
}


def read(folder: Path) -> tuple[list[Record], list[str]]:
    """The records below a folder, and a message for each file that is none, as tables find them."""
    columns, faults = read_folder(folder, lambda record: {"record": record})
    return columns.get("record", []), [message for _, message in faults]


def fields(**changes: Any) -> dict[str, Any]:
    content = {
        "task": "detection.voc",
        "task_version": 1,
        "checkpoint": {
            "path": "ckpt.pth",
            "sha256": "ab" * 32,
            "format": "msbreg",
            "branch": "online",
            "arch": "resnet18",
            "label": "MSBReg",
        },
        "engine": "mmdet",
        "recipe": {"lr": 0.02, "steps": [3, 5], "nested": {"norm": "BN"}},
        "protocol": "moco",
        "differences": [{"what": "batch", "protocol": "16", "run": "2"}],
        "data": {"train": {"name": "t", "sha256": "cd" * 32, "images": 3, "boxes": 9}},
        "seed": 0,
        "status": "finished",
        "primary_metric": "AP",
        "metrics": {"AP": 41.25, "AP50": 70.5},
        "details": {"per_class": {"cat": 50.0}},
        "verification": {"tensors": 122},
        "notes": ["half precision was widened"],
        "failure": {},
        "command": "python -m transfer run detection.voc",
        "git_commit": "f" * 40,
        "git_dirty": False,
        "versions": {"torch": "2.11.0"},
        "conditions": {"threads": 1, "instructions": "AVX2"},
        "device": "cpu: some model, 2 cores",
        "seconds": 12.5,
        "utc": "2026-01-31T12:00:00Z",
    } | changes
    checkpoint = content["checkpoint"]
    content.setdefault(
        "run_id",
        run_id(
            content["task"],
            content["task_version"],
            checkpoint["sha256"],
            checkpoint["branch"],
            content["engine"],
            content["recipe"],
            content["data"],
            content["seed"],
        ),
    )
    return content


def failed(**changes: Any) -> Record:
    failure = {"kind": "TrainingError", "message": "the loss is nan", "traceback": "Traceback …"}
    return Record(**fields(status="failed", metrics={}, failure=failure, **changes))


# -- run id

json_leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
json_values = st.recursive(json_leaves, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=5)
recipes = st.dictionaries(st.text(), json_values, max_size=4)


def reversed_keys(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: reversed_keys(value[key]) for key in reversed(value)}
    return tuple(map(reversed_keys, value)) if isinstance(value, list) else value


@settings(deadline=None, max_examples=40)
@given(recipes)
def test_run_id_does_not_know_key_order_nor_tuples_from_lists(recipe: dict[str, Any]) -> None:
    straight = run_id(**{**DECISIVE, "recipe": recipe})
    assert run_id(**{**DECISIVE, "recipe": reversed_keys(recipe)}) == straight
    assert len(straight) == 16
    assert set(straight) <= set("0123456789abcdef")


def test_run_id_is_the_documented_hash() -> None:
    # Computed here from the definition; a change of it would orphan every record ever written.
    import hashlib

    canonical = (
        '["detection.voc",1,"' + "ab" * 32 + '","online","mmdet",'
        '{"detector":{"lr":0.02,"neck":"c4","steps":[18000,22000]},"flip":0.5},'
        '{"train":{"boxes":9,"images":3,"name":"t","sha256":"' + "cd" * 32 + '"}},0]'
    )
    assert run_id(**DECISIVE) == hashlib.sha256(canonical.encode()).hexdigest()[:16]


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("task",), "detection.coco"),
        (("task_version",), 2),
        (("sha256",), "ac" + "ab" * 31),
        (("branch",), "target"),
        (("engine",), "detectron2"),
        (("recipe", "flip"), 0.5000000000000001),
        (("recipe", "detector", "lr"), 0.1),
        (("recipe", "detector", "steps", 1), 22001),
        (("recipe", "detector", "neck"), "fpn"),
        (("data_fingerprints", "train", "sha256"), "ce" + "cd" * 31),
        (("data_fingerprints", "train", "images"), 4),
        (("seed",), 1),
    ],
)
def test_any_single_change_gives_another_run_id(where: tuple[str | int, ...], value: Any) -> None:
    changed: Any = copy.deepcopy(DECISIVE)
    inner = changed
    for key in where[:-1]:
        inner = inner[key]
    assert inner[where[-1]] != value
    inner[where[-1]] = value
    assert run_id(**changed) != run_id(**DECISIVE)


@settings(deadline=None, max_examples=40)
@given(recipes, recipes)
def test_different_recipes_never_share_a_run_id(one: dict[str, Any], other: dict[str, Any]) -> None:
    same_text = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (run_id(**{**DECISIVE, "recipe": one}) == run_id(**{**DECISIVE, "recipe": other})) == same_text


# -- round trip


@settings(deadline=None, max_examples=40)
@given(
    recipe=recipes,
    details=recipes,
    seed=st.integers(),
    notes=st.lists(st.text(), max_size=3),
    metrics=st.dictionaries(st.text(), st.floats(0, 100), max_size=3),
)
def test_what_is_written_is_what_is_read(tmp_path_factory: pytest.TempPathFactory, metrics: Any, **drawn: Any) -> None:
    folder = tmp_path_factory.mktemp("records")
    record = Record(**fields(metrics={"AP": 1.0, **metrics}, **drawn))
    path = write_record(record, folder)
    assert path == folder / "detection.voc" / f"{record.run_id}.json"
    assert read_record(path) == record
    assert read(folder) == ([record], [])
    assert json.loads(path.read_text(encoding="utf-8"))["schema"] == 3


def test_a_record_keeps_tuples_as_lists_and_its_own_copy(tmp_path: Path) -> None:
    recipe: dict[str, Any] = {"steps": (18000, 22000)}
    record = Record(**fields(recipe=recipe))
    recipe["steps"] = "changed later"
    assert record.recipe == {"steps": [18000, 22000]}
    assert read_record(write_record(record, tmp_path)) == record


def test_failed_runs_round_trip(tmp_path: Path) -> None:
    record = failed()
    assert read_record(write_record(record, tmp_path)) == record


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"metrics": {"AP": float("nan")}}, "metrics.AP is nan"),
        ({"details": {"loss": [1.0, float("inf")]}}, r"details.loss\[1\] is inf"),
        ({"metrics": {"AP50": 1.0}}, "primary metric 'AP' is not among AP50"),
        ({"status": "failed", "metrics": {}}, "failure is not given"),
        ({"status": "failed", "failure": {"kind": "a", "message": "b", "traceback": "c"}}, "yet it has metrics"),
        ({"status": "running"}, "'running', not one of"),
        ({"failure": {"kind": "a"}, "status": "failed", "metrics": {}}, "failure has the keys kind instead"),
        ({"differences": [{"what": "lr"}]}, r"differences\[0\] has the keys what"),
        ({"data": {"train": {"name": "t"}}}, "data.train has no name and sha256"),
        ({"task": "../escape"}, "no name of a task"),
        ({"run_id": "0" * 16}, "its contents give"),
    ],
)
def test_contradictions_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Record(**fields(**changes))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seed": True}, "seed is bool True, not int"),
        ({"seconds": "1"}, "seconds is str '1', not float"),
        ({"details": {"x": {1, 2}}}, "details.x is a set"),
        ({"details": {"x": {3: "y"}}}, "has the key 3"),
        ({"metrics": {"AP": "41"}}, "metrics.AP is str '41', not float"),
        ({"notes": "one"}, "notes is str 'one', not list"),
    ],
)
def test_wrong_types_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(TypeError, match=said):
        Record(**fields(**changes))


# -- strict reading


def damaged(tmp_path: Path, change: Any) -> Path:
    path = write_record(Record(**fields()), tmp_path)
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c.update(extra=1), "unknown: extra"),
        (lambda c: c.pop("seed"), "missing: seed"),
        (lambda c: c.update(schema=4), "schema 4, this checkout reads schema 3"),
        (lambda c: c.update(schema=1), "schema 1, this checkout reads schema 3"),  # it has conditions: not of schema 1
        (lambda c: c.update(schema=2), "schema 2, this checkout reads schema 3"),  # and a mark: nor of schema 2
        (lambda c: c.update(authors_own=1), "authors_own is int 1, not bool"),
        (lambda c: c.pop("conditions"), "missing: conditions"),
        (lambda c: c.update(schema=True), "schema True"),
        (lambda c: c.pop("schema"), "no key 'schema'"),
        (lambda c: c.update(seed="0"), "seed is str '0', not int"),
        (lambda c: c["checkpoint"].update(sha256=7), "checkpoint.sha256 is int 7, not str"),
        (lambda c: c["recipe"].update(lr=0.1), "its contents give"),
        (lambda c: c.update(seed=5), "its contents give"),
        (lambda c: c["metrics"].update(AP=None), "metrics.AP is NoneType None"),
    ],
)
def test_reading_is_strict(tmp_path: Path, change: Any, said: str) -> None:
    path = damaged(tmp_path, change)
    with pytest.raises(RecordError) as caught:
        read_record(path)
    assert str(path) in caught.value.what
    assert said in str(caught.value)
    assert caught.value.todo


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_a_truncated_file_is_reported_never_skipped(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    folder = tmp_path_factory.mktemp("records")
    path = write_record(Record(**fields()), folder)
    other = write_record(Record(**fields(seed=1)), folder)
    whole = path.read_bytes().rstrip()
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    found, problems = read(folder)
    assert [record.seed for record in found] == [1]
    assert len(problems) == 1
    assert str(path) in problems[0]
    assert str(other) not in problems[0]


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"null", b"\xff\xfe\x00", b"<html>", b'{"schema": NaN}', b"[" * 100_000]
)
def test_files_that_are_no_records_are_reported(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.json").write_bytes(content)
    found, problems = read(tmp_path)
    assert found == []
    assert len(problems) == 1
    with pytest.raises(RecordError):
        read_record(tmp_path / "x.json")


def test_infinity_hidden_in_an_exponent_is_refused(tmp_path: Path) -> None:
    path = write_record(Record(**fields()), tmp_path)
    path.write_text(path.read_text(encoding="utf-8").replace("41.25", "1e999"), encoding="utf-8")
    with pytest.raises(RecordError, match="not a valid record"):
        read_record(path)


# -- writing


def test_a_finished_record_survives_a_failed_repetition_unless_asked(tmp_path: Path) -> None:
    finished, broken = Record(**fields()), failed()
    assert finished.run_id == broken.run_id
    path = write_record(finished, tmp_path)
    with pytest.raises(RecordError, match="not replaced by a failed one"):
        write_record(broken, tmp_path)
    assert read_record(path) == finished
    write_record(broken, tmp_path, overwrite=True)
    assert read_record(path) == broken
    write_record(finished, tmp_path)
    assert read_record(path) == finished


def test_an_unreadable_file_in_the_place_of_a_record_is_kept_beside_it(tmp_path: Path) -> None:
    record = Record(**fields())
    path = write_record(record, tmp_path)
    path.write_text('{"schema": 1, "cut', encoding="utf-8")
    assert write_record(record, tmp_path) == path
    assert read_record(path) == record
    assert path.with_name(path.name + ".unreadable").read_text(encoding="utf-8") == '{"schema": 1, "cut'
    assert read(tmp_path) == ([record], [])


def test_a_full_disk_leaves_the_old_record_and_no_rubbish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_record(Record(**fields()), tmp_path)
    before = path.read_bytes()

    def no_space(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(UserError, match="cannot write"):
        write_record(Record(**fields(utc="2027-01-01T00:00:00Z")), tmp_path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


# -- reuse and circumstances


def test_differences_on_reuse_names_commit_changes_and_versions() -> None:
    record = Record(**fields(versions={"torch": "2.11.0", "gone": "1", "same": "3"}))
    now = {"torch": "2.12.0", "same": "3", "new": "7"}
    said = records.differences_on_reuse(record, "e" * 40, True, now, {"threads": 2, "instructions": "AVX2"})
    assert said == [
        "the code was at commit ffffffffffff and is now at eeeeeeeeeeee",
        "the code has changes now that no commit holds (on top of eeeeeeeeeeee)",
        "gone was 1 and is now absent",
        "new was absent and is now 7",
        "torch was 2.11.0 and is now 2.12.0",
        "the number of CPU threads was 1 and is now 2",
    ]
    assert records.differences_on_reuse(record, "f" * 40, False, record.versions, record.conditions) == []
    dirty = dataclasses.replace(record, git_dirty=True)
    assert records.differences_on_reuse(dirty, "f" * 40, False, record.versions, record.conditions) == [
        "the code had changes that no commit holds (on top of ffffffffffff)"
    ]


def test_records_from_before_conditions_are_read_and_say_so_on_reuse(tmp_path: Path) -> None:
    def older(content: dict[str, Any]) -> None:
        content.update(schema=1)
        content.pop("conditions")
        content.pop("authors_own")

    record = read_record(damaged(tmp_path, older))
    assert record.conditions == {}
    assert record.metrics == {"AP": 41.25, "AP50": 70.5}
    assert records.differences_on_reuse(record, "f" * 40, False, record.versions, {"threads": 1}) == [
        "its threads, instruction set and arithmetic were not recorded"
    ]


def test_records_from_before_the_mark_of_auto_are_read_without_it(tmp_path: Path) -> None:
    def older(content: dict[str, Any]) -> None:
        content.update(schema=2)
        content.pop("authors_own")

    record = read_record(damaged(tmp_path, older))
    assert record == Record(**fields())
    assert not record.authors_own


def test_git_state_sees_commits_and_changes(tmp_path: Path) -> None:
    def git(*words: str) -> str:
        who = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
        done = subprocess.run(["git", *who, *words], cwd=tmp_path, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    git("init", "-q")
    package = tmp_path / "package"
    package.mkdir()
    (package / "code.py").write_text("x = 1\n", encoding="utf-8")
    assert records.git_state(package) == ("unknown", True)
    git("add", ".")
    git("commit", "-q", "-m", "one")
    assert records.git_state(package) == (git("rev-parse", "HEAD"), False)
    (package / "code.py").write_text("x = 2\n", encoding="utf-8")
    assert records.git_state(package) == (git("rev-parse", "HEAD"), True)
    git("checkout", "-q", ".")
    unpacked = tmp_path / "unpacked"
    unpacked.mkdir()
    (unpacked / "other.py").write_text("", encoding="utf-8")
    assert records.git_state(unpacked) == ("unknown", True)


def test_package_versions_leave_out_what_is_not_installed() -> None:
    versions = records.package_versions(["numpy", "no-such-package-here"])
    import numpy

    assert versions == {"python": sys.version.split()[0], "numpy": numpy.__version__}


def test_reading_records_imports_the_standard_library_only() -> None:
    code = (
        "import sys, transfer.record\n"
        "rooms = {name.split('.')[0] for name in sys.modules} - set(sys.stdlib_module_names)\n"
        "print(sorted(room for room in rooms if not room.startswith('_')))"
    )
    isolated = [sys.executable, "-S", "-c", code]
    done = subprocess.run(isolated, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['transfer']"
