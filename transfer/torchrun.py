"""`python -m transfer.torchrun --nproc-per-node 8 -m transfer run …`: every end is one clear line.

Its options are torchrun's. What failed has been said by the process that failed; torchrun itself would add a page of
traceback to it, and to a Ctrl-C.
"""

from __future__ import annotations

from transfer.runtime.interrupts import GOES_ON, STATUS, on_interrupt

if __name__ == "__main__":
    # before PyTorch, which takes seconds
    on_interrupt(GOES_ON)

import logging
import os
import signal
import sys
from collections.abc import Sequence

import psutil

SAVING = 30.0  # seconds that processes have to save and leave


def main(arguments: Sequence[str]) -> int:
    """Start the processes and wait for them; returns the exit status of the first that failed, or 0."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    signal.signal(signal.SIGUSR1, lambda *_: os.kill(os.getpid(), signal.SIGTERM))  # which torchrun passes on
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # what torchrun sets, with five lines about it
    for name in list(logging.root.manager.loggerDict):  # each of them has a level of its own
        if name.startswith("torch.distributed.elastic"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        torchrun(list(arguments))
    except SignalException as stopped:
        # A second signal cuts torchrun's own waiting short, and those that it has started are still saving.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        psutil.wait_procs(psutil.Process().children(recursive=True), timeout=SAVING)
        # Ctrl-C reaches every process of a terminal, and the first of them has answered.
        return STATUS if stopped.sigval == signal.SIGINT else 128 + int(stopped.sigval)
    except ChildFailedError as failed:
        rank, failure = failed.get_first_failure()
        if failure.exitcode >= 0:
            return failure.exitcode
        name = signal.Signals(-failure.exitcode).name
        sys.stderr.write(
            f"error: process {rank} was ended by {name}\n"
            + ("  found: the system does this when memory is full\n" if name == "SIGKILL" else "")
            + "  to do: type the same command again: it goes on from the last checkpoint\n"
        )
        return 128 - failure.exitcode
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
