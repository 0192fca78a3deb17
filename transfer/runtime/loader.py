"""PyTorch's DataLoader, which asks for room in /dev/shm before it starts processes that hand images over through it."""

from __future__ import annotations

from typing import Any, TypeVar

from torch.utils.data import DataLoader

from transfer.runtime.shared_memory import demand_shared_memory

T = TypeVar("T")


class Loader(DataLoader[T]):
    """Every loader of this project is one: a run starts several, and the room may be gone by the second."""

    def __iter__(self) -> Any:
        """As usual.

        Raises:
            TrainingError: no room for its processes.
        """
        demand_shared_memory(self.num_workers)
        return super().__iter__()
