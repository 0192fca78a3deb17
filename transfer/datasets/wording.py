"""Lists and counts in messages of the data readers."""

from __future__ import annotations

from collections.abc import Sequence


def few(texts: Sequence[str], limit: int = 5) -> str:
    """The first few of `texts` in one line, and how many more there are."""
    more = len(texts) - limit
    return ", ".join(texts[:limit]) + (f" and {more} more" if more > 0 else "")


def counted(number: int, one: str, many: str) -> str:
    """The number with its noun: "1 box", "1,200 boxes"."""
    return f"{number:,} {one if number == 1 else many}"
