"""`docs/protocols.md`, made from the tasks. Rewrite it with

PYTHONPATH=. python tests/transfer/protocols_page.py
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from transfer.cli import as_text  # noqa: E402
from transfer.protocol import flatten  # noqa: E402
from transfer.task import Task, load_task, task_names  # noqa: E402

PAGE = ROOT / "docs" / "protocols.md"
HEAD = """# Protocols

Every value of every protocol, and where it was read. Made from the tasks by `tests/transfer/protocols_page.py`; the
same by task: `python -m transfer recipe TASK --protocol NAME`. "ours" says that no publication states the value.
"""


def page() -> str:
    """Tasks of equal protocols share a section: the first protocol in full, the others by what differs from it."""
    tasks = {name: load_task(name) for name in task_names()}
    sections: dict[str, list[str]] = {}
    for name, task in tasks.items():
        sections.setdefault(_section(task), []).append(name)
    return "\n".join([HEAD, *(f"## {', '.join(names)}\n\n{text}" for text, names in sections.items())])


def _section(task: Task) -> str:
    first, *_ = task.protocols
    base = _rows(task, first)
    parts = [f"### {first} (default)\n\n{_listed(base)}"]
    for name in list(task.protocols)[1:]:
        rows = [row for row in _rows(task, name) if row not in base]
        parts.append(f"### {name}: what differs from {first}\n\n{_listed(rows)}")
    return "\n".join(parts)


def _rows(task: Task, protocol: str) -> list[tuple[str, str, str]]:
    sources = task.published[protocol].sources
    values: dict[str, Any] = flatten(task.protocols[protocol])
    return [(sources.get(key, ""), key, as_text(value)) for key, value in values.items()]


def _listed(rows: list[tuple[str, str, str]]) -> str:
    """One line a source, in the order of the first value that it states; a place within it stands beside the value."""
    sources: dict[str, list[str]] = {}
    for source, key, value in rows:
        whole, _, place = source.partition(": ")
        sources.setdefault(whole, []).append(f"`{key}` {value}" + (f" ({place})" if place else ""))
    return "\n".join(f"- {source}: {', '.join(values)}" for source, values in sources.items()) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
