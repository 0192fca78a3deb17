"""Libraries that draw from the generators of a whole process, made to draw what a few numbers decide."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def drawn_by(*numbers: int) -> Iterator[None]:
    """Within, Python's, numpy's and torch's generators (of the CPU) start from `numbers`; then they are as before."""
    seeds = np.random.SeedSequence(numbers).generate_state(3, np.uint64)
    python, legacy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            random.seed(int(seeds[0]))
            np.random.seed(int(seeds[1] % 2**32))
            torch.manual_seed(int(seeds[2] >> 1))
            yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)
