"""A backbone called `backbone.` in a file that no toolkit has signed: the fallback of `transfer.backbone_family`.

Layout: `{"state_dict", …}` of a private Lightning module or training script, or the state dict alone. The network
called `backbone.` is taken. Heads under the usual names are dropped; anything else, a second backbone above all, is
refused by name.
"""

from __future__ import annotations

import dataclasses
import re

from transfer.backbone_family import LIGHTNING, member
from transfer.layout import Extracted, Tree, refuse_unknown
from transfer.prefixed import Network, Release

_OF_A_RESNET = re.compile(r"\.layer[1-4]\.\d+\.(?:conv|bn)\d\.")
_HEADS = {
    "classifier.": "classifier, behind the backbone",
    "fc.": "classifier or projection head, behind the backbone",
    "head.": "head, behind the backbone",
    "heads.": "heads, behind the backbone",
    "projector.": "projector, behind the backbone",
    "projection.": "projector, behind the backbone",
    "predictor.": "predictor, behind the projector",
    "prediction.": "predictor, behind the projector",
    "prototypes.": "prototypes, behind the projector",
    "criterion.": "state of the loss",
    "loss.": "state of the loss",
    "queue": "queue of negatives",
    "queue_ptr": "position in the queue of negatives",
}


def _release(wrapper: str | None, outer: tuple[str, ...], lacks: tuple[str, ...] = ()) -> Release:
    return Release(
        name="backbone",
        title="a backbone under `backbone.`, toolkit unknown",
        networks={"only": Network("backbone.")},
        heads=_HEADS | LIGHTNING,
        behind={"fc.": "classifier or projection head, behind the backbone"},
        wrappers=(wrapper,),
        outer=outer,
        lacks=lacks,
        notes=(
            "nothing in the file says which toolkit wrote it; the network called `backbone.` was taken, the only one "
            "in the file (lightly's BYOL, DINO and MoCo may call a moving average so, and DINO's authors do)",
        ),
    )


_DECLARED = member(
    "backbone",
    _release("state_dict", ("module.", "")),
    _release(None, ("",)),
    _release(None, ("module.",), lacks=("bn.", "projector.", "maps_projector.", "classifier.")),  # Barlow Twins, VICReg
)


def extract(tree: Tree, branch: str | None) -> Extracted:
    """As declared; and no head may hold a ResNet of its own, which could be the one that was evaluated."""
    found = _DECLARED.extract(tree, branch)
    refuse_unknown([name for group in found.dropped for name in group.names if _OF_A_RESNET.search(name)])
    return found


FORMAT = dataclasses.replace(_DECLARED, extract=extract)
