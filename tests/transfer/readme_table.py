"""The README's table of checkpoints, made from what the tests test. Rewrite it with

PYTHONPATH=. python tests/transfer/readme_table.py
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "transfer")]

from releases import all_refusals, all_releases  # noqa: E402 - found by the line above

BEGIN, END = "<!-- checkpoints: made by tests/transfer/readme_table.py -->", "<!-- end of checkpoints -->"


def table() -> str:
    """Markdown: one row a release, then one a refusal."""
    rows = ["| release | `--format` | architectures | branches | tested on |", "| --- | --- | --- | --- | --- |"]
    for release in sorted(all_releases().values(), key=lambda release: (release.format, release.title)):
        branches = ", ".join((release.branch, *release.others)) if release.others else "–"
        archs = ", ".join(arch.removeprefix("resnet") if arch.startswith("resnet") else arch for arch in release.archs)
        rows.append(
            f"| {release.title} | `{release.format}` | {archs} | {branches} | {release.real or 'layout only'} |"
        )
    rows += ["", "| recognised and refused | because |", "| --- | --- |"]
    rows += [f"| {refusal.title} | {refusal.says[0]} |" for refusal in all_refusals().values()]
    return "\n".join(rows)


def with_table(readme: str) -> str:
    """The README with the table between its two marks made anew."""
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{table()}\n\n{END}{after}"


if __name__ == "__main__":
    path = ROOT / "README.md"
    path.write_text(with_table(path.read_text()))
