"""Full training checkpoints of Barlow Twins and VICReg.

Layout: `{"epoch", "model", "optimizer"}`; `module.backbone.` is a torchvision ResNet without `fc`, `module.projector.`
the expander, and only Barlow Twins has `module.bn.`, the normalisation inside its loss
(facebookresearch/barlowtwins: main.py; facebookresearch/vicreg: main_vicreg.py). The released `resnet50.pth` files
hold the backbone alone and are plain ResNets.
"""

from __future__ import annotations

from transfer.layout import (
    Drop,
    Extracted,
    Match,
    Mismatch,
    Tree,
    beside,
    has_prefix,
    needed_weights,
    only_branch,
    separate,
    weights_under,
)

NAME = "barlow_vicreg"
BRANCHES: tuple[str, ...] = ()


def matches(tree: Tree) -> Match | Mismatch:
    """`model` has names that begin with `module.backbone.layer1.`."""
    weights = weights_under(tree, "model")
    if weights is None:
        return Mismatch("no tensors under `model`")
    if not has_prefix(weights, "module.backbone.layer1."):
        return Mismatch("no name under `model` begins with module.backbone.layer1.")
    return Match("Barlow Twins" if has_prefix(weights, "module.bn.") else "VICReg")


def extract(tree: Tree, branch: str | None) -> Extracted:
    """Take the backbone; both methods train one network only."""
    taken = only_branch(branch, BRANCHES, NAME)
    weights = needed_weights(tree, "model", NAME)
    rules = [
        Drop("module.projector.", "projector (expander), behind the backbone"),
        Drop("module.bn.", "batch normalisation inside the Barlow Twins loss"),
    ]
    state, dropped = separate(weights, "module.backbone.", rules)
    method = "Barlow Twins" if has_prefix(weights, "module.bn.") else "VICReg"
    note = f"told by its loss's batch normalisation, or the lack of one: a checkpoint of {method}"
    return Extracted(state, dropped + beside(tree, ["model"]), taken, notes=(note,))
