"""How much the project's own rooms say; other libraries keep their levels."""

from __future__ import annotations

import logging

ROOMS = ("transfer", "detection", "segmentation", "finegrained")


def say_from(level: int) -> None:
    """Let the rooms in which tasks run log messages of `level` (`logging.INFO`, …) and above."""
    for room in ROOMS:
        logging.getLogger(room).setLevel(level)
