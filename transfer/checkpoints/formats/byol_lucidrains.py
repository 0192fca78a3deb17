"""BYOL by lucidrains (the package byol-pytorch): the state dict of its wrapper `BYOL`.

Layout: `net.` is the network that was wrapped, here a torchvision ResNet; `online_encoder.net.` is the same object and
holds its tensors again, beside `online_encoder.projector.`; `target_encoder.` is the moving average of both (absent
with `use_momentum=False`, which is SimSiam), and `online_predictor.` the predictor. The repository's Lightning example
puts `learner.` before all of them (lucidrains/byol-pytorch: byol_pytorch/byol_pytorch.py, examples/lightning/train.py).
What the package itself saves is the bare network, a plain ResNet with its untouched classifier
(byol_pytorch/trainer.py, README.md). No weights were released. By default pixels have ImageNet's mean and std.
"""

from __future__ import annotations

import dataclasses

from transfer.checkpoints.backbone import Lint
from transfer.checkpoints.declared import Network, Release, prefixed
from transfer.checkpoints.rules import Extracted, Tree, demand_equal, has_prefix, weights_under

TWIN = "online_encoder."
RELEASE = Release(
    name="byol_lucidrains",
    title="BYOL by lucidrains (byol-pytorch), the whole wrapper",
    networks={"online": Network("net."), "target": Network("target_encoder.net.")},
    behind={"fc.": "last layer of the wrapped network, which BYOL does not train"},
    heads={
        f"{TWIN}net.": "the online network again, under its second name and with the same values",
        f"{TWIN}projector.": "projector, behind the backbone",
        "target_encoder.projector.": "projector of the target network",
        "online_predictor.": "predictor, behind the projector",
    },
    outer=("module.", "learner.", ""),
    needs=(f"{TWIN}net.",),
    lints=(
        Lint(
            "supervised-start",
            "byol-pytorch's own examples start from supervised ImageNet weights; the file does not say what it "
            "started from",
        ),
    ),
)
_PLAIN = prefixed(RELEASE)


def read(tree: Tree, branch: str | None) -> Extracted:
    """As declared, and the two names of the online network must hold the same values."""
    found = _PLAIN.read(tree, branch)
    for key in RELEASE.keys:
        weights = tree if key is None else weights_under(tree, key)
        outer = next((o for o in RELEASE.outer if has_prefix(weights, f"{o}{TWIN}net.")), None)
        if weights is not None and outer is not None:
            demand_equal(weights, f"{outer}net.", f"{outer}{TWIN}net.")
            break
    return found


FORMAT = dataclasses.replace(_PLAIN, read=read)
