"""A backbone called `backbone.` in a file that no toolkit has signed.

Layout: `{"state_dict", …}` of a private Lightning module or training script, or the state dict alone. The network
called `backbone.` is taken. Heads under the usual names are dropped; anything else, a second backbone above all, is
refused by name.
"""

from __future__ import annotations

import dataclasses
import re

from transfer.checkpoints.carried import TIMMS_RULE, assumed
from transfer.checkpoints.declared import CLASSIFIERS, LIGHTNING, USUAL_HEADS, Network, Release, prefixed
from transfer.checkpoints.families import markers
from transfer.checkpoints.rules import Extracted, Tree, refuse_unknown

_OF_A_NETWORK = re.compile(r"\.layer[1-4]\.\d+\.(?:conv|bn)\d\.|(?:^|\.)blocks\.\d+\.norm1\.")


_DECLARED = prefixed(
    Release(
        name="backbone",
        title="a backbone under `backbone.`, toolkit unknown",
        networks={"only": Network("backbone.")},
        heads=USUAL_HEADS | LIGHTNING,
        behind=CLASSIFIERS,
        markers=markers(),
        facts=TIMMS_RULE,
        general=2,
        notes=(
            "nothing in the file says which toolkit wrote it; the network called `backbone.` was taken, the only one "
            "in the file (lightly's BYOL, DINO and MoCo may call a moving average so, and DINO's authors do)",
        ),
    )
)


def read(tree: Tree, branch: str | None) -> Extracted:
    """As declared; and no head may hold a network of its own, which could be the one that was evaluated."""
    found = _DECLARED.read(tree, branch)
    refuse_unknown([name for group in found.dropped for name in group.names if _OF_A_NETWORK.search(name)])
    if any(name.startswith("layer1.") for name in found.state):
        return found
    return dataclasses.replace(found, notes=(*found.notes, assumed(list(found.state))))


FORMAT = dataclasses.replace(_DECLARED, read=read, told_by_name=True)
