"""PyTorch's DataLoader, which asks for room in /dev/shm before it starts processes that hand images over through it."""

from __future__ import annotations

import signal
from typing import Any, TypeVar

from torch.utils.data import DataLoader

from transfer.runtime.shared_memory import demand_shared_memory

T = TypeVar("T")


class Loader(DataLoader[T]):
    """Every loader of this project is one: a run starts several, and the room may be gone by the second.

    Its processes end with the one that reads from it, and not at a scheduler's signal: that goes to all processes of a
    job, and a training could not save once its images stopped coming.
    """

    def __iter__(self) -> Any:
        """As usual.

        Raises:
            TrainingError: no room for its processes.
        """
        demand_shared_memory(self.num_workers)
        self.worker_init_fn = _deaf
        return super().__iter__()


def _deaf(_worker: int) -> None:
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
