"""A linear classifier without the network under it, which is refused.

Layout: `{"epoch", "state_dict", …}` with one weight and one bias: DINO's and iBOT's linear evaluations save the
classifier alone, since the backbone is frozen (facebookresearch/dino: eval_linear.py, `checkpoint.pth.tar`; released as
`dino_*_linearweights.pth`). DINO's for ViT-B takes CLS token and average channel by channel in turn, not one behind the
other (stack, then flatten), so its columns fit no plain concatenation.
"""

from transfer.checkpoints.rules import Match, Mismatch, Tree, refused, weights_under


def recognise(tree: Tree) -> Match | Mismatch:
    """Nothing but a matrix and as many numbers as it has rows."""
    weights = weights_under(tree, "state_dict") or {}
    shapes = {str(name).rpartition(".")[2]: tuple(getattr(value, "shape", ())) for name, value in weights.items()}
    matrix, bias = shapes.get("weight", ()), shapes.get("bias", ())
    if len(weights) == 2 and len(matrix) == 2 and bias == matrix[:1]:
        return Match("linear classifier")
    return Mismatch("under state_dict there is more, or less, than one matrix and its bias")


FORMAT = refused(
    "linear_classifier",
    recognise,
    "is a linear classifier alone: the network whose features it takes is not in the file",
    "take the file with the backbone; the classifier is trained anew here",
)
