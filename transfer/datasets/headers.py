"""Headers of many image files at once."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from transfer.datasets.images import Header, read_header

READERS = 8  # threads: they hide the latency of network disks; parsing itself is serial
SHARE = 64  # files that a thread reads at once: an interrupt waits for no more than that


def read_headers(paths: Sequence[Path]) -> list[Header]:
    """One header for each file, in order.

    Raises:
        DataError: no image can be read there.
    """
    with ThreadPoolExecutor(READERS) as pool:
        shares = pool.map(_read_share, (paths[start : start + SHARE] for start in range(0, len(paths), SHARE)))
        return [header for share in shares for header in share]


def _read_share(paths: Sequence[Path]) -> list[Header]:
    return [read_header(path) for path in paths]
