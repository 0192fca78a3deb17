"""Detectron2's loggers, kept to what a reader of this project's log needs."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

# `train_loop` logs every exception with its traceback before passing it on; the command line reports it once.
QUIET: Mapping[str, str] = {
    "detectron2": "WARNING",
    "fvcore": "WARNING",
    "iopath": "WARNING",
    "detectron2.engine.train_loop": "CRITICAL",
    "torch.fx._symbolic_trace": "ERROR",  # a deprecation inside Detectron2's RPN, said once per process
}


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Detectron2's own chatter, and warnings about its use of torch, out of a run's log."""
    with log_levels(QUIET), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.meshgrid", category=UserWarning)
        yield


@contextmanager
def log_levels(levels: Mapping[str, str]) -> Iterator[None]:
    """Set the levels of loggers by name, and set them back."""
    before = {name: logging.getLogger(name).level for name in levels}
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    try:
        yield
    finally:
        for name, number in before.items():
            logging.getLogger(name).setLevel(number)
