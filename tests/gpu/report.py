"""Write `evidence.md` beside this file: every line, with what a GPU showed, or that none has run it.

python tests/gpu/report.py           (`make gpu` ends with it)
python tests/gpu/report.py --check   exits 1 if evidence.md is not what it would write
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from code_for_gpus import reached
from evidence import FILE, HERE, lines, read

OUT = HERE / "evidence.md"
NEVER = "never run on a GPU"


def rendered(content: dict[str, Any]) -> str:
    """The page."""
    tested = lines()
    titles = {line.test: line.title for line in tested}
    seen = {name: line for name, line in content["lines"].items() if name.partition("[")[0] in titles}
    text = [
        "# What ran on a GPU",
        "",
        "Written by `make gpu`, which ends with `python tests/gpu/report.py`. A line is a test in `tests/gpu/`; each "
        "also runs on a CPU with small sizes, in `make test-slow`.",
        "",
        *_runs(content["runs"]),
        "| test | what it shows | seen |",
        "| --- | --- | --- |",
    ]
    for line in tested:
        found = [(name, each) for name, each in seen.items() if name.partition("[")[0] == line.test]
        for name, each in sorted(found):
            text.append(f"| `{name}` | {line.title} | {_said(each)} |")
        if not found:
            text.append(f"| `{line.test}` | {line.title} | {NEVER} |")
    text += [
        "",
        "## Code that only a GPU reaches",
        "",
        "| file | line | test that reaches it | seen |",
        "| --- | --- | --- | --- |",
    ]
    passed = {name.partition("[")[0] for name, line in seen.items() if line["outcome"] == "passed"}
    for place, tests in reached().items():
        path, _, code = place.partition(": ")
        met = "yes" if any(test in passed for test in tests) else NEVER
        by = ", ".join(f"`{test}`" for test in tests) or "none: it takes two GPUs"
        text.append(f"| `{path}` | `{code.replace('|', chr(92) + '|')}` | {by} | {met} |")
    return "\n".join(text) + "\n"


def _runs(runs: list[dict[str, Any]]) -> list[str]:
    if not runs:
        return ["No GPU has run any of them yet.", ""]
    text = []
    for number, run in enumerate(runs):
        versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
        where = f"{run['gpu']} ({run['gib']} GiB, CUDA {run['cuda']})" if run["gpu"] else "CPU"
        text.append(f"- run {number}: {run['date']}, {where}, commit {run['commit'] or 'unknown'}; {versions}")
    return [*text, ""]


def _said(line: dict[str, Any]) -> str:
    values = ", ".join(f"{name} {value}" for name, value in line["measured"].items())
    outcome = line["outcome"] if line["outcome"] != "failed" else f"FAILED: {line['said']}"
    return f"{outcome} in {line['seconds']:.0f} s (run {line['run']})" + (f": {values}" if values else "")


def main() -> int:
    """0, or 1 where `--check` finds another page."""
    text = rendered(read(FILE))
    if "--check" in sys.argv[1:]:
        return int(not OUT.exists() or OUT.read_text(encoding="utf-8") != text)
    OUT.write_text(text, encoding="utf-8")
    print(f"{OUT.relative_to(HERE.parents[1])} is written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
