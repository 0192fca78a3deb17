"""SimCLR v1's released weights, converted by tonylins' simclr-converter (`resnet50-1x.pth`, `-2x`, `-4x`).

Layout: `{"state_dict"}` and nothing beside it, a torchvision ResNet with `fc`, of which stem and stages are one, two or
four times as wide (tonylins/simclr-converter: convert.py, resnet_wider.py). The network registers `downsample` before
`conv1`, to walk through its layers in TensorFlow's order, and so its state dict names them in that order: this is what
tells the file from a plain ResNet's. A copy that lost the order (safetensors sorts names) needs
`--format simclr_tonylins`, or it is read as a plain ResNet, with the wrong normalisation of pixels. `fc.weight` is the
released linear classifier; `fc.bias` was never filled in and holds random numbers.

Pixels are RGB in 0–1 without mean and std (eval.py). TensorFlow's SAME padding sits in the max-pooling alone, which
pads one pixel on the right and at the bottom where torch's pads it on the left and at the top; the strided convolutions
pad symmetrically by kernel size, as torch's do (google-research/simclr: resnet.py, conv2d_fixed_padding).
"""

from __future__ import annotations

from transfer.checkpoints.backbone import InputSpec
from transfer.checkpoints.rules import (
    Drop,
    Extracted,
    Format,
    Match,
    Mismatch,
    Tree,
    beside,
    has_prefix,
    separate,
    weights_under,
)

NAME = "simclr_tonylins"
KEY = "state_dict"
UNNORMALISED = InputSpec("RGB", 1.0, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
NOTE = "SAME padding in the max-pooling only: convolutions pad as torchvision's, so the grid is shifted once"


def recognise(tree: Tree) -> Match | Mismatch:
    """`state_dict` alone, in the order of the converter's network: a block's `downsample` before its `conv1`."""
    weights = weights_under(tree, KEY) or {}
    first = next((name for name in weights if isinstance(name, str) and name.startswith("layer1.0.")), "")
    if set(tree) != {KEY} or not has_prefix(weights, "fc.") or not first.startswith("layer1.0.downsample."):
        return Mismatch("not `state_dict` alone with layer1.0.downsample. before the rest of its block, and with fc.")
    return Match("SimCLR v1, converted by tonylins' simclr-converter")


def read(tree: Tree, branch: str | None) -> Extracted:
    """Drop the classifier, keep the rest; also from names alone, if it is forced."""
    weights = weights_under(tree, KEY) or tree
    state, dropped = separate(weights, "", [Drop("fc.", "classifier, behind the backbone")])
    if weights is not tree:
        dropped += beside(tree, [KEY])
    return Extracted(state, dropped, input=UNNORMALISED, same_padding=True, notes=(NOTE,))


FORMAT = Format(NAME, (), recognise, read)
