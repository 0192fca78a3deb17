"""Lists and counts in messages of the data readers."""

from __future__ import annotations

from collections.abc import Sequence

from transfer.runtime.errors import DataError

SHOWN = 5


def few(texts: Sequence[str], limit: int = SHOWN) -> str:
    """The first few of `texts` in one line, and how many more there are."""
    more = len(texts) - limit
    return ", ".join(texts[:limit]) + (f" and {more} more" if more > 0 else "")


def few_lines(texts: Sequence[str], limit: int = SHOWN) -> str:
    """The first few of `texts`, one a line, and how many more there are."""
    more = len(texts) - limit
    return "\n".join([*texts[:limit], *([f"… and {more} more"] if more > 0 else [])])


def counted(number: int, one: str, many: str = "") -> str:
    """The number with its noun: "1 box", "1,200 boxes"; `many` is `one` with an s unless given."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def raise_together(problems: Sequence[DataError], what: str) -> None:
    """Raise what is wrong with a set in one message, so that nobody mends it file by file; nothing if nothing is.

    Args:
        problems: one for each file, say. Shown are a few, of each kind (what to do about it) one before the second.
        what: follows their number: "3 " + what.

    Raises:
        DataError: the one problem as it is, or all of them counted.
    """
    if len(problems) == 1:
        raise problems[0]
    if problems:
        kinds = list({problem.todo: problem for problem in reversed(problems)}.values())[::-1]
        shown = [*kinds, *(problem for problem in problems if not any(problem is kind for kind in kinds))]
        lines = [problem.what + (f": {problem.found}" if problem.found else "") for problem in shown]
        todo = "\n".join(dict.fromkeys(problem.todo for problem in shown[:SHOWN]))
        raise DataError(f"{len(problems):,} {what}", found=few_lines(lines), todo=todo)
