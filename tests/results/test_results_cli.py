"""`python -m results`, as it is typed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from results import __main__ as command
from transfer.record import Record, write_record

ROOT = Path(__file__).resolve().parents[2]
MakeRecord = Callable[..., Record]
Folder = Callable[..., Path]
Results = Callable[..., tuple[int, str, str]]


@pytest.fixture
def results(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Results:
    """Runs the command line in this process: (exit status, standard output, standard error)."""

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["results", *map(str, words)])
        status = command.main()
        return status, *capsys.readouterr()

    return run


def test_table_prints_and_writes(record: MakeRecord, folder: Folder, results: Results, tmp_path: Path) -> None:
    records = folder(record(seed=0), record(seed=1, ap=42.0))
    files = ["--csv", tmp_path / "t.csv", "--markdown", tmp_path / "new" / "t.md"]
    status, out, err = results("table", "--records", records, "--metrics", "AP", "AP50", "--reference", *files)
    assert (status, err) == (0, "")
    assert "41 ±1 (2)" in out
    assert "AP75" not in out.split("Published:")[0]
    assert "MoCo v2" in out.split("Published:", 1)[1]
    lines = (tmp_path / "t.csv").read_text(encoding="utf-8").splitlines()
    assert sum(",competitor," in line for line in lines) == 2
    assert "| MSBReg | 41 ± 1 (2) | 61 ± 1 |" in (tmp_path / "new" / "t.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("layout", ["paper", "long", "wide"])
def test_every_layout_in_every_form(layout: str, record: MakeRecord, folder: Folder, results: Results) -> None:
    label = "a & b_<script>\u202e$%#{}"
    records = folder(record(label, 0, 40.0), record("B", 0, 42.0))
    for form, shown in {
        "text": "a & b_<script>\\u202e$%#{}",
        "md": "a &amp; b\\_\\<script\\>\\u202e$%\\#{}",
        "csv": "a & b_<script>",
        "latex": "a \\& b\\_\\textless{}script\\textgreater{}\\textbackslash{}u202e\\$\\%\\#\\{\\}",
        "html": "a &amp; b_&lt;script&gt;\\u202e$%#{}",
    }.items():
        status, out, err = results("table", "--records", records, "--layout", layout, "--format", form)
        assert (status, err) == (0, "")
        assert shown in out, form
        assert "<script>" not in out or form in ("text", "csv", "md")


def test_rank_and_explain(record: MakeRecord, folder: Folder, results: Results) -> None:
    runs = [record(name, seed, 40.0 + 5 * place + seed / 10) for place, name in enumerate("ABC") for seed in range(3)]
    runs = [
        record(run.label, run.seed, run.metrics["AP"] + 0.01 * place * run.seed * (run.label == "B"))
        for place, run in enumerate(runs)
    ]
    records = folder(*runs)
    status, out, _ = results("rank", "--records", records)
    assert status == 0
    assert [line.split()[:2] for line in out.splitlines()[3:6]] == [["C", "1.0"], ["B", "2.0"], ["A", "3.0"]]
    status, out, _ = results("explain", runs[0].run_id[:8], "--records", records)
    assert status == 0
    assert f"python -m transfer reproduce {runs[0].run_id}" in out
    assert "all 100 tensors arrived" in out
    status, out, _ = results("explain", "detection-c4", "--records", records)
    assert out.count("seed 0  AP 4") + out.count("seed 0  AP 5") == 3
    status, _, err = results("explain", "nothing", "--records", records)
    assert status == 2
    assert "tables detection-c4" in err


def test_a_broken_record_is_named_and_the_table_still_printed(
    record: MakeRecord, folder: Folder, results: Results
) -> None:
    records = folder(record())
    broken = records / "detection.voc" / "broken.json"
    broken.write_text('{"schema": 1', encoding="utf-8")
    status, out, err = results("table", "--records", records)
    assert status == 1
    assert "40.0" in out
    assert str(broken) in err
    assert "1 file is not in what is shown" in err
    for path in records.rglob("*.json"):
        path.write_text("", encoding="utf-8")
    status, out, err = results("table", "--records", records)
    assert status == 1
    assert "2 files are not in what is shown" in err
    for words in (["compare", "A", "B"], ["plot", "--out", records / "x.png"]):
        assert results(*words, "--records", records)[0] == 1
    assert not (records / "x.png").exists()


def test_a_conflict_is_named_and_a_caution_stops_nothing(record: MakeRecord, results: Results, tmp_path: Path) -> None:
    write_record(record("a", 0, 40.0), tmp_path / "1")
    write_record(record("a", 0, 41.0), tmp_path / "2")
    status, _, err = results("table", "--records", tmp_path / "1", tmp_path / "2")
    assert status == 1
    assert "hold other numbers" in err
    assert "1 file is not in what is shown" in err
    write_record(record("A", 0, 42.0, utc="2999-01-01T00:00:00Z"), tmp_path / "1")
    status, _, err = results("table", "--records", tmp_path / "1")
    assert status == 0
    assert "differ only in their letters' case" in err
    assert "ended in the future" in err
    assert "not in what is shown" not in err


def test_compare_plot_curves_and_export(record: MakeRecord, folder: Folder, results: Results, tmp_path: Path) -> None:
    one = record("A", 0, 50.0)
    records = folder(one, record("A", 1, 51.0), record("B", 0, 40.0), record("B", 1, 41.5))
    status, out, _ = results("compare", "A", "B", "--records", records)
    assert status == 0
    assert "AP: A is 9.75 above B" in " ".join(out.split())
    status, out, _ = results("plot", "--records", records, "--out", tmp_path / "p.png")
    assert (status, out.strip()) == (0, str(tmp_path / "p.png"))
    curve = tmp_path / "work" / one.task / one.run_id / "metrics.jsonl"
    curve.parent.mkdir(parents=True)
    curve.write_text('{"iteration": 0, "loss": 1.0}\n', encoding="utf-8")
    status, _, err = results("curves", "--records", records, "--work", tmp_path / "work", "--out", tmp_path / "c.png")
    assert status == 0
    assert err.count("not drawn: ") == 3
    status, out, _ = results("export", records / one.task / f"{one.run_id}.json", "--to", tmp_path / "to")
    assert (status, Path(out.strip()).stem) == (0, one.run_id)


def test_errors_are_one_message_without_a_traceback(results: Results, tmp_path: Path) -> None:
    for words in (["table"], ["compare", "A", "B"], ["plot", "--out", tmp_path / "x.png"]):
        status, out, err = results(*words, "--records", tmp_path)
        assert (status, out) == (2, "")
        assert err.startswith("there are no records to show\n  found: nothing in ")
        assert "Traceback" not in err
    status, _, err = results("table", "--records", tmp_path, "--debug")
    assert status == 2
    assert "Traceback" in err


def test_the_default_folders_do_not_depend_on_where_one_stands(tmp_path: Path) -> None:
    code = "from results.frame import RECORD_FOLDERS, WORK_FOLDER; print(*RECORD_FOLDERS, WORK_FOLDER)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [str(ROOT / part) for part in ("runs/records", "results/records", "runs/work")]


def test_results_imports_no_engine_and_no_torch() -> None:
    code = (
        "import sys, results.__main__\n"
        "loaded = {name.split('.')[0] for name in sys.modules}\n"
        "print(sorted(loaded & {'torch', 'torchvision', 'timm', 'mmdet', 'mmcv', 'mmengine', 'detectron2', 'cv2', "
        "'detection', 'segmentation', 'finegrained', 'pretrain'}))\n"
        "print(sorted(name for name in sys.modules if name.startswith('transfer')))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    heavy, spine = done.stdout.splitlines()
    assert heavy == "[]"
    parts = ("command", "conditions", "errors", "files", "interrupts", "provenance")
    assert spine == str(
        ["transfer", "transfer.record", "transfer.runtime", *(f"transfer.runtime.{part}" for part in parts)]
    )


@pytest.mark.parametrize("words", [["--help"], ["table", "--help"], ["compare", "--help"], ["export", "--help"]])
def test_help_shows_no_path_of_this_machine_and_no_empty_default(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["results", *words])
    with pytest.raises(SystemExit) as caught:
        command.main()
    assert caught.value.code == 0
    said = capsys.readouterr().out
    assert str(ROOT) not in said
    assert "(default: )" not in said
    assert "None" not in said
