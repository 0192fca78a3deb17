"""ImageNet models of Detectron and Detectron2 under Caffe2's names: `R-50.pkl`, `R-101.pkl`, `X-101-32x8d.pkl`.

Layout: a pickle of name → array with nothing around it, or the same under `model`; see `caffe2_blobs` for the
names. Beside the backbone: `fc1000_w`, `fc1000_b` or `pred_w`, `pred_b`, and `conv1_b`, the bias of MSRA's first
convolution. Detectron and Detectron2 build that convolution without a bias and so leave it out (facebookresearch/
Detectron: detectron/modeling/ResNet.py; Detectron2 lists it as unused), and so does this format.

MSRA's ResNets take BGR in 0–255 minus a mean, undivided, and have their stride in the first 1×1 convolution
(STRIDE_1X1, STRIDE_IN_1X1). Detectron's copies fold batch norm; they are fed minus 102.9801, 115.9465, 122.7717
(facebookresearch/Detectron: tools/pickle_caffe_blobs.py, detectron/core/config.py). Detectron2's copies under the same
name have unfolded batch norms (`_bn_gamma`, …; facebookresearch/detectron2: MODEL_ZOO.md and issue 1688, which lists
the names) and are fed minus 103.53, 116.28, 123.675 (detectron2/config/defaults.py).

FAIR's ResNeXt was trained in Caffe2: stride in the 3×3 convolution, and in Detectron2 BGR divided by ImageNet's std
(facebookresearch/detectron2: configs/COCO-Detection/faster_rcnn_X_101_32x8d_FPN_3x.yaml).
"""

from collections.abc import Mapping
from typing import Any

from transfer.checkpoints.backbone import InputSpec
from transfer.checkpoints.caffe2_blobs import Blobs, holds_blobs, read_blobs
from transfer.checkpoints.rules import (
    Extracted,
    Format,
    Match,
    Mismatch,
    Tree,
    beside,
    needed_weights,
    weights_under,
)

NAME = "detectron1"
_MEAN, _STD = (103.53, 116.28, 123.675), (57.375, 57.12, 58.395)
DETECTRON2_INPUT = InputSpec("BGR", 255.0, _MEAN, (1.0, 1.0, 1.0))
DETECTRON_INPUT = InputSpec("BGR", 255.0, (102.9801, 115.9465, 122.7717), (1.0, 1.0, 1.0))
CAFFE2_INPUT = InputSpec("BGR", 255.0, _MEAN, _STD)


def recognise(tree: Tree) -> Match | Mismatch:
    """Names at the top or under `model` begin with `res2_0_branch2a_`."""
    if not holds_blobs(tree) and not holds_blobs(weights_under(tree, "model")):
        return Mismatch("no name at the top or under `model` begins with res2_0_branch2a_")
    return Match("ResNet under Caffe2's names (Detectron, Detectron2)")


def read(tree: Tree, branch: str | None) -> Extracted:
    """Rename; the spelling of the batch norms tells whose copy it is."""
    bare = holds_blobs(tree)
    weights: Mapping[str, Any] = tree if bare else needed_weights(tree, "model", NAME)
    blobs = read_blobs(weights, "classifier, behind the backbone", "" if bare else "model.")
    return Extracted(
        blobs.state,
        blobs.dropped + (() if bare else beside(tree, ["model"])),
        input=_input(blobs),
        stride_in_1x1=not blobs.grouped and blobs.spelling != "riv",
        notes=blobs.notes,
        lints=blobs.lints,
    )


def _input(blobs: Blobs) -> InputSpec:
    if blobs.spelling == "folded":
        return DETECTRON_INPUT
    return CAFFE2_INPUT if blobs.grouped or blobs.spelling == "riv" else DETECTRON2_INPUT


FORMAT = Format(NAME, (), recognise, read)
