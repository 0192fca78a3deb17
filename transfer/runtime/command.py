"""What every command line of the project does alike: its errors, its end, and `--debug`."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import tyro

from transfer.runtime.errors import UserError, printable
from transfer.runtime.interrupts import say

REFUSED, PIPE_CLOSED = 2, 141  # exit statuses; the latter is 128 + SIGPIPE, as shells count


@dataclass(frozen=True, kw_only=True)
class Debug:
    """The option that every command has. `answer` asks the command line for it, so that it counts before parsing."""

    debug: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = False
    """show tracebacks."""


def answer(command: Callable[[], int], debug: bool, interrupted: str, lead: str | None = "error: ") -> int:
    """Do what was typed, and give its exit status: the command's own, 2 refused, 130 interrupted, 141 nobody reads on.

    An error that is meant for people is one message without a traceback.

    Args:
        command: does it.
        debug: whether `--debug` was typed: such errors are raised instead.
        interrupted: what to say on Ctrl-C.
        lead: stands before the message of an error; None: this is one of several processes, and another one says it.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that has no "…" or "×" shows their codes
            stream.reconfigure(errors="backslashreplace")
    try:
        status = command()
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # `… | head`: nobody reads on, and Python would say so once more when it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except (UserError, RuntimeError, OSError) as error:
        from transfer.runtime.shared_memory import out_of_shared_memory  # multiprocessing, which a table has no use for

        known = error if isinstance(error, UserError) else out_of_shared_memory(error)
        if known is None or debug:
            raise
        if lead is not None:
            sys.stderr.write(f"{lead}{printable(str(known))}\n")
        return REFUSED
    except KeyboardInterrupt:
        return say(interrupted)
