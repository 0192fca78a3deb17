"""The table of checkpoints in `docs/checkpoints.md` and their count in the README, made from what the tests test.

Rewrite them with

PYTHONPATH=. python tests/transfer/checkpoints/checkpoints_page.py
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "transfer" / "checkpoints")]

from releases import Release, all_refusals, all_releases  # noqa: E402 - found by the line above

from transfer.checkpoints.families import families, family_of, offered  # noqa: E402

PAGE = ROOT / "docs" / "checkpoints.md"
README = ROOT / "README.md"
BEGIN, END = (
    "<!-- checkpoints: made by tests/transfer/checkpoints/checkpoints_page.py -->",
    "<!-- end of checkpoints -->",
)


def table() -> str:
    """Markdown: a table for each family of networks, then the refusals."""
    rows: list[str] = []
    for name in sorted(families(), key=lambda name: name != "resnet"):
        rows += [f"**{families()[name].title}**", "", *table_of(name), ""]
    rows += ["| recognised and refused | because (words of the message) |", "| --- | --- |"]
    rows += [f"| {refusal.title} | {', '.join(refusal.says[:2])} |" for refusal in all_refusals().values()]
    return "\n".join(rows)


def table_of(family: str) -> list[str]:
    """One row for the releases of a format that differ in nothing but their heads."""
    groups: dict[tuple[str, str, str], list[Release]] = {}
    own = [release for release in all_releases().values() if family_of(release.archs[0]).name == family]
    for release in sorted(own, key=lambda release: (release.format, release.title)):
        branches = ", ".join((release.branch, *release.others)) if release.others else "–"
        groups.setdefault((release.format, branches, release.real or "layout only"), []).append(release)
    rows = ["| `--format` | release form | architectures | branches | tested on |", "| --- | --- | --- | --- | --- |"]
    for (name, branches, seen), members in groups.items():
        titles = "; ".join(dict.fromkeys(release.title for release in members))
        used = {arch for release in members for arch in release.archs}
        order = [arch for arch in offered() if arch in used] + sorted(used - set(offered()))
        archs = ", ".join(arch.removeprefix("resnet") for arch in order)
        rows.append(f"| `{name}` | {titles} | {archs} | {branches} | {seen} |")
    return rows


def with_counts(page: str) -> str:
    """The page with its number of release forms and of formats."""
    releases = all_releases().values()
    counts = f"{len(releases)} release forms in {len({r.format for r in releases})} formats are read"
    page, replaced = re.subn(r"\d+ release forms in \d+ formats are read", counts, page)
    assert replaced == 1
    return page


def with_table(page: str) -> str:
    """The page with its counts, and the table between its two marks, made anew."""
    before, _, rest = with_counts(page).partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{table()}\n\n{END}{after}"


if __name__ == "__main__":
    for path, anew in ((PAGE, with_table), (README, with_counts)):
        path.write_text(anew(path.read_text(encoding="utf-8")), encoding="utf-8")
