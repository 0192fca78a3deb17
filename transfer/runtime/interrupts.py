"""Ctrl-C at any moment: one line that says how to go on, exit status 130, no traceback.

A terminal sends the signal to every process of a command. Only the one that was started answers: data-loading
processes, which inherit the handler, leave it alone and end when their parent does. The first Ctrl-C becomes Python's
`KeyboardInterrupt`, so that what is open is closed. During an import, where an exception can be lost or can abort in
C++, it ends the process at once, and so does the second Ctrl-C. That loses nothing: files are replaced whole or not
at all.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType

STATUS = 130  # of a command that SIGINT ended, as shells count: 128 + 2
NOTHING_CHANGED = "interrupted; nothing was changed, type the same command again"
GOES_ON = "interrupted; type the same command again: it goes on from the last checkpoint"
_said = False


def say(message: str) -> int:
    """Print `message` on a line of its own; returns the exit status, 130."""
    global _said
    _said = True
    if _first():
        sys.stderr.write(f"\n{message}\n")
        sys.stderr.flush()
    return STATUS


def _first() -> bool:
    return os.environ.get("RANK", "0") == "0"  # of several processes one says it


def _end(message: str) -> None:
    """End the process at once; past Python's stderr, which may be in the middle of a line."""
    if _first() and not _said:
        os.write(2, f"\n{message}\n".encode(errors="replace"))
    os._exit(STATUS)


def on_interrupt(message: str) -> None:
    """From here on Ctrl-C ends this process with `message`; call it before anything heavy is imported."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # nohup, a background job: whoever started it wants that
        return
    owner, pressed = os.getpid(), False

    def answer(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        if os.getpid() != owner:
            return
        if pressed or _importing(frame):
            _end(message)
        pressed = True
        raise KeyboardInterrupt

    def uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if os.getpid() == owner and issubclass(kind, KeyboardInterrupt):
            _end(message)
        sys.__excepthook__(kind, error, trace)

    signal.signal(signal.SIGINT, answer)
    sys.excepthook = uncaught


def _importing(frame: FrameType | None) -> bool:
    """Whether an import is under way: PyTorch's C++ initialisers abort with a page of text at an exception."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


@contextmanager
def children_left_alone() -> Iterator[None]:
    """Processes that are started inside never see Ctrl-C: it is held back meanwhile, and they inherit that."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
