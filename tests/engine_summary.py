"""Run the tests of both engines against the installed libraries and write what was seen to `tests/engines.md`.

    python tests/engine_summary.py                       (or: make engines)
    python tests/engine_summary.py --report junit.xml    from a run of the tests that wrote one already

The file is committed with every change to an engine. It says which versions the tests met, and how they ended.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections import Counter
from datetime import UTC, datetime
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FILES = (
    "tests/detection/engines/*.py",
    "tests/transfer/checkpoints/test_export_*.py",
    "tests/transfer/runtime/test_batch_norm.py",
    "tests/detection/*.py",
    "tests/segmentation/*.py",
)
PACKAGES = ("detectron2", "onedl-mmdetection", "onedl-mmcv", "onedl-mmengine", "torch", "torchvision", "fvcore")
OUT = ROOT / "tests" / "engines.md"


def versions() -> dict[str, str]:
    """Package → version, "absent" for what is not installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


def outcomes(report: Path) -> dict[str, Counter[str]]:
    """Test file → how many passed, failed, were skipped."""
    table: dict[str, Counter[str]] = {}
    for case in ET.parse(report).getroot().iter("testcase"):
        kinds = {child.tag for child in case}
        outcome = "skipped" if "skipped" in kinds else "failed" if kinds & {"failure", "error"} else "passed"
        parts = case.get("classname", "").split(".")
        file = next(index for index, part in enumerate(parts) if part.startswith("test_"))
        table.setdefault("/".join(parts[: file + 1]) + ".py", Counter())[outcome] += 1
    return table


def run(report: Path) -> int:
    """Run the tests; pytest's exit status."""
    paths = sorted(str(path.relative_to(ROOT)) for pattern in FILES for path in ROOT.glob(pattern))
    paths = [path for path in paths if Path(path).name.startswith("test_")]
    command = [sys.executable, "-m", "pytest", "-q", "-n", "auto", "--maxprocesses", "8", f"--junitxml={report}"]
    return subprocess.run([*command, *paths], cwd=ROOT, check=False).returncode


def main() -> int:
    """Run (or read), write, and give pytest's exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", type=Path)
    given: Path | None = parser.parse_args().report
    with tempfile.TemporaryDirectory() as folder:
        report = given or Path(folder) / "report.xml"
        status = 0 if given else run(report)
        table = outcomes(report)
    table = {name: count for name, count in table.items() if any(fnmatch(name, pattern) for pattern in FILES)}
    total: Counter[str] = sum(table.values(), Counter())
    commit = subprocess.run(
        ["git", "rev-parse", "--short=12", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()
    lines = [
        "# Tests of the engines, as last run",
        "",
        f"Written {datetime.now(UTC):%Y-%m-%d} at commit {commit}, "
        f"{platform.machine()}, no GPU: "
        + ", ".join(f"{total[kind]} {kind}" for kind in ("passed", "failed", "skipped")),
        "",
        "| package | version |",
        "| --- | --- |",
        *(f"| {name} | {version} |" for name, version in versions().items()),
        "",
        "| tests | passed | failed | skipped |",
        "| --- | --- | --- | --- |",
        *(
            f"| `{name}` | {count['passed']} | {count['failed']} | {count['skipped']} |"
            for name, count in sorted(table.items())
        ),
    ]
    OUT.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return status


if __name__ == "__main__":
    sys.exit(main())
