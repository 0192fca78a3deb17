"""MoCo v1 and v2 pretraining checkpoints.

Layout: `{"epoch", "arch", "state_dict", "optimizer"}`; the networks are `module.encoder_q.` (trained by gradient) and
`module.encoder_k.` (its moving average), both torchvision ResNets whose `fc` is the projection head; `module.queue`
and `module.queue_ptr` are the negatives. Linear evaluation and Detectron2 transfer take the query encoder
(facebookresearch/moco: main_moco.py, main_lincls.py, detection/convert-pretrain.py).
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

NAME = "moco"
BRANCHES = ("query", "key")
_ENCODERS = {"query": "module.encoder_q.", "key": "module.encoder_k."}


def matches(tree: Tree) -> Match | Mismatch:
    """`state_dict` has names that begin with `module.encoder_q.layer1.`."""
    weights = weights_under(tree, "state_dict")
    if weights is None:
        return Mismatch("no tensors under `state_dict`")
    if not has_prefix(weights, "module.encoder_q.layer1."):
        return Mismatch("no name under `state_dict` begins with module.encoder_q.layer1.")
    version = "v2 (two-layer head)" if has_prefix(weights, "module.encoder_q.fc.2.") else "v1 (linear head)"
    return Match(f"MoCo {version}")


def extract(tree: Tree, branch: str | None) -> Extracted:
    """Take the query encoder, or with branch "key" its moving average."""
    taken = only_branch(branch, BRANCHES, NAME)
    other = "key" if taken == "query" else "query"
    rules = [
        Drop(f"{_ENCODERS[taken]}fc.", "projection head, behind the backbone"),
        Drop(_ENCODERS[other], f"the {other} encoder; the {taken} encoder was taken"),
        Drop("module.queue", "queue of negatives"),
        Drop("module.queue_ptr", "position in the queue of negatives"),
    ]
    state, dropped = separate(needed_weights(tree, "state_dict", NAME), _ENCODERS[taken], rules)
    return Extracted(state, dropped + beside(tree, ["state_dict"]), taken)
