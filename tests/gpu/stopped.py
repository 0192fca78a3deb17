"""`python -m pretrain …`, interrupted as by Ctrl-C when it is about to do step STEP + 1.

python tests/gpu/stopped.py STEP DATA [options of pretrain]
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from pretrain import train
from pretrain.__main__ import main

ours = train._Run._step


def step(run: Any, *rest: Any) -> Any:
    """In place of `_Run._step`."""
    if run.done == int(sys.argv[1]):
        raise KeyboardInterrupt
    return ours(run, *rest)


if __name__ == "__main__":
    train._Run._step = step
    sys.exit(main(sys.argv[2:]))
