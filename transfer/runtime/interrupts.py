"""Ctrl-C at any moment: one line that says how to go on, exit status 130, no traceback; SIGTERM: save first, then 143.

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
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import NoReturn

STATUS = 130  # of a command that SIGINT ended, as shells count: 128 + 2
NOTHING_CHANGED = "interrupted; nothing was changed, type the same command again"
GOES_ON = "interrupted; type the same command again: it goes on from the last checkpoint"
SAVED = "{}: saved; type the same command again: it goes on from here"
_said = False
_asked = 0  # the signal that asked this process to save and leave


def say(message: str) -> int:
    """Print `message` on a line of its own; returns the exit status: 130, or 128 + the signal that `leave` obeys."""
    global _said
    _said = True
    if _first():
        sys.stderr.write(f"\n{SAVED.format(signal.Signals(_asked).name) if _asked else message}\n")
        sys.stderr.flush()
    return 128 + _asked if _asked else STATUS


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


@contextmanager
def saves_when_asked() -> Iterator[None]:
    """Inside, SIGTERM and SIGUSR1 only make `asked` true, and whoever trains saves and calls `leave`.

    More of them change nothing: a scheduler sends one to every process of a job, and whoever started this one sends it
    again. What does not come to the end of its step is left to SIGKILL. Processes that were forked end at once.
    """
    if threading.current_thread() is not threading.main_thread():  # which alone gets signals
        yield
        return
    owner = os.getpid()

    def note(number: int, _frame: FrameType | None) -> None:
        global _asked
        if os.getpid() != owner:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        _asked = _asked or number

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def asked() -> bool:
    """Whether this process was asked to save and leave; of several processes that train together one is enough."""
    return bool(_asked)


def leave() -> NoReturn:
    """End as Ctrl-C does; what was to be saved is."""
    raise KeyboardInterrupt
