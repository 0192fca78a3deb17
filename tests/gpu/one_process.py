"""`python -m pretrain …` in a process group of one, which `World` otherwise leaves out: NCCL itself is tried.

python tests/gpu/one_process.py PORT DATA [options of pretrain]
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
import torch.distributed as dist

from pretrain import train
from pretrain.__main__ import main
from transfer.runtime import world
from transfer.runtime.world import World


class Joined(World):
    """A world of one that sends its messages all the same."""

    def gather(self, part: torch.Tensor) -> torch.Tensor:
        parts = [torch.empty_like(part)]
        dist.all_gather(parts, part.detach().contiguous())
        return parts[0]

    def add_up(self, tensors: list[torch.Tensor]) -> None:
        for tensor in tensors:
            dist.all_reduce(tensor)


@contextmanager
def joined(device: torch.device) -> Iterator[tuple[World, torch.device]]:
    """`transfer.runtime.world.world` as several processes enter it, for a group of one."""
    port = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": sys.argv[1]}
    os.environ |= port | {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    world.world_size = lambda: 2
    with world.world(device) as (_, own):
        yield Joined(), own


if __name__ == "__main__":
    train.world = joined
    sys.exit(main(sys.argv[2:]))
