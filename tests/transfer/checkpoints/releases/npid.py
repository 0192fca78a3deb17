"""NPID by its authors: the memory bank is pickled as a module, which the reader turns away."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any
from unittest.mock import patch

from checkpoint_files import State, Tree, linear, training_state, under, width_of, without_fc

from releases import Refusal

MODULE = "lib.NCEAverage"


class NCEAverage:
    """Stands for the memory bank's class while a file is written; its real module comes with the training code."""


NCEAverage.__module__, NCEAverage.__qualname__ = MODULE, "NCEAverage"


class Checkpoint(dict):
    """A dict that may be pickled only while the module that its pickle names is there."""

    def modules(self) -> Any:
        """A context in which it is."""
        found = {"lib": ModuleType("lib"), MODULE: ModuleType(MODULE)}
        found[MODULE].NCEAverage = NCEAverage
        return patch.dict(sys.modules, found)


def build(state: State) -> Tree:
    weights = under("module.", without_fc(state) | linear("fc.", width_of(state), 128))
    contents = {"arch": "resnet50", "state_dict": weights, "lemniscate": NCEAverage(), "best_prec1": 0.468}
    return Checkpoint(contents | training_state(state))


REFUSED = {
    "npid_lemniscate": Refusal(
        title="NPID (lemniscate)",
        build=build,
        says=("lib.NCEAverage.NCEAverage", "state_dict"),
        source="zhirongw/lemniscate.pytorch: main.py, lib/NCEAverage.py",
        container="legacy",
    )
}
