"""`python -m transfer reproduce RUN`: one line, one run, and nothing that is not the same."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path

import pytest
from PIL import Image

from transfer import record as records
from transfer import reproduce
from transfer.__main__ import main
from transfer.record import Record, read_record, write_record
from transfer.runtime.errors import UserError

COMMIT = "c" * 40
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of plain colours, twelve images each to train and two to test."""
    folder = tmp_path_factory.mktemp("images")
    for split, count in (("train", 12), ("test", 2)):
        for place, name in enumerate("ab"):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                colour = (200 * place + 5 * number, 90, 40 + number + 100 * (split == "test"))
                Image.new("RGB", (40, 40), colour).save(folder / split / name / f"{split}{number}.png")
    return folder


@pytest.fixture(scope="module")
def runs(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four runs of kNN by one command and a clean commit."""
    folder = tmp_path_factory.mktemp("runs")
    words = ["transfer.knn", "random:resnet18:1", "random:resnet18", "--labels", "one", "zero", "--seeds", "3", "4"]
    words += ["--preset", "cpu", "--device", "cpu", "--image-folder", str(images), "--ks", "20", "--view.resize", "32"]
    words += ["--view.crop", "32", "--runs", str(folder)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records, "git_state", lambda _: (COMMIT, False))
        assert main(["run", *words]) == 0
    return folder / "records"


@pytest.fixture
def made(runs: Path, monkeypatch: pytest.MonkeyPatch) -> Record:
    """One of them; the code is at that commit."""
    monkeypatch.setattr(records, "git_state", lambda _: (COMMIT, False))
    found = [read_record(path) for path in sorted(runs.rglob("*.json"))]
    assert len(found) == 4
    return next(record for record in found if record.label == "zero" and record.seed == 4)


@pytest.mark.slow
def test_a_run_is_repeated_to_every_digit(
    made: Record, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--records", str(runs), "--into", str(tmp_path / "again")]
    capsys.readouterr()
    assert main(["reproduce", made.run_id[:10], *where]) == 0
    words = shlex.split(capsys.readouterr().out)
    assert words[:6] == ["python", "-m", "transfer", "run", "transfer.knn", "random:resnet18:0"]
    assert words[words.index("--labels") :][:4] == ["--labels", "zero", "--seeds", "4"]
    assert not (tmp_path / "again").exists()
    assert main(["reproduce", made.run_id, *where, "--run-it"]) == 0
    out = capsys.readouterr().out
    assert out.count("equal to every digit") == len(made.metrics)
    (again,) = [read_record(path) for path in (tmp_path / "again" / "records").rglob("*.json")]
    assert (again.run_id, again.metrics) == (made.run_id, made.metrics)


def test_what_differs_is_refused_and_named(
    made: Record,
    runs: Path,
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    where = ["--records", str(runs)]

    def refused(*words: str) -> str:
        capsys.readouterr()
        assert main(["reproduce", made.run_id, *where, *words]) == 2
        shown = capsys.readouterr()
        assert shown.out == ""
        return shown.err

    assert "checkpoint: sha256" in refused("--checkpoint", "random:resnet18:7")
    assert "checkpoint: " in refused("--checkpoint", str(tmp_path / "nowhere.pth"))
    err = refused("--", "--image-folder", str(tmp_path / "elsewhere"))
    assert "data: " in err
    assert "recipe: ks [20], here [20, 10]" in refused("--", "--ks", "20", "10")
    monkeypatch.setattr(records, "git_state", lambda folder: ("d" * 40, True))
    err = refused()
    assert f"code: commit {COMMIT[:12]}, here dddddddddddd" in err
    assert "changes here that no commit holds" in err
    extra = images / "test" / "a" / "extra.png"
    Image.new("RGB", (40, 40)).save(extra)
    try:
        assert "data: test: " in refused()
    finally:
        extra.unlink()


def test_a_run_must_be_found_and_its_command_be_one(made: Record, runs: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not the id of one run") as caught:
        reproduce.find("0000000000", [runs])
    assert str(runs) in caught.value.found
    path = write_record(dataclasses.replace(made, command="make all"), tmp_path / "other")
    with pytest.raises(UserError, match="not made by a command that can be repeated"):
        reproduce.line_of(reproduce.find(str(path), []), None, [], tmp_path)


def test_every_published_record_becomes_a_line() -> None:
    for path in sorted((ROOT / "results" / "records").rglob("*.json")):
        record = read_record(path)
        words = reproduce.line_of(record, None, [], Path("again"))
        assert words[:2] == [record.task, record.checkpoint["path"]]
        assert words.count("--seeds") == words.count("--labels") == words.count("--runs") == 1
        assert words[words.index("--seeds") + 1] == str(record.seed)
