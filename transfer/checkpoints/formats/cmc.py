"""CMC, by its authors and in PyContrast: recognised and refused.

Layout: under "model", `encoder.module.l_to_ab.` sees one channel (L) and `encoder.module.ab_to_l.` two (a, b), each a
ResNet of half, single or double width behind a stem of 64 channels; features are the two outputs together
(HobbitLong/CMC: models/resnet.py, train_CMC.py, LinearProbing.py). PyContrast names them `module.encoder1.` and
`module.encoder2.`, and its colours are Y, Db, Dr (HobbitLong/PyContrast: pycontrast/networks/build_backbone.py,
datasets/util.py).
"""

from transfer.checkpoints.rules import Match, Mismatch, Tree, has_prefix, refused, weights_under

PAIRS = (
    ("encoder.module.l_to_ab.", "encoder.module.ab_to_l."),
    ("module.encoder1.", "module.encoder2."),
)


def recognise(tree: Tree) -> Match | Mismatch:
    """Both branches lie under "model", or at the top."""
    for weights in (weights_under(tree, "model"), tree):
        if any(has_prefix(weights, first) and has_prefix(weights, second) for first, second in PAIRS):
            return Match("CMC, one network on luminance and one on colour")
    return Mismatch(
        "no pair of networks under model or at the top: " + " or ".join(" and ".join(pair) for pair in PAIRS)
    )


FORMAT = refused(
    "cmc",
    recognise,
    "is a checkpoint of CMC: two networks, one of which sees luminance alone and the other two channels of colour, and "
    "whose outputs together are the representation. No engine's ResNet takes such an image",
    "take a method of the same authors that sees RGB, as InsDis, MoCo or InfoMin; CMC itself is evaluated with its own "
    "code (HobbitLong/CMC: LinearProbing.py)",
)
