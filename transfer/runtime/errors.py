"""The one kind of error that is meant for a person: what failed, what was found, what to type next."""

from __future__ import annotations


class UserError(Exception):
    """Something that the person at the keyboard can mend.

    Command lines print it without a traceback (`--debug` shows one) and exit with status 2.

    Args:
        what: one sentence that says what failed and where (file, key, option).
        found: what was there instead; may hold several lines.
        todo: what to type or change next.
    """

    def __init__(self, what: str, *, found: str = "", todo: str = "") -> None:
        self.what, self.found, self.todo = what, found, todo
        super().__init__(what)

    def __str__(self) -> str:
        lines = [self.what]
        for label, text in (("found", self.found), ("to do", self.todo)):
            if text:
                lines.append(f"  {label}: " + text.strip("\n").replace("\n", "\n         "))
        return "\n".join(lines)

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions cross processes by pickle; the default would lose the keyword parts.
        return _rebuild, (type(self), self.what, self.found, self.todo)


def _rebuild(kind: type[UserError], what: str, found: str, todo: str) -> UserError:
    return kind(what, found=found, todo=todo)


def printable(text: str) -> str:
    """`text` for a terminal: names out of a file may hold its control sequences, or halves of characters."""
    return "".join(
        char if char == "\n" or char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


class CheckpointError(UserError):
    """A checkpoint file that cannot be read, is not understood, or does not fill the backbone exactly."""


class DataError(UserError):
    """A data set that is missing, incomplete or malformed."""


class EngineError(UserError):
    """A detection engine that is not installed, or a model in it that does not hold the checkpoint's weights."""


class TrainingError(UserError):
    """A training run that cannot go on: a loss that is not finite, no space left, a broken resume file."""


class Diverged(TrainingError):
    """A training whose loss or weights are no longer finite: what lower learning rates may mend, and nothing else."""
