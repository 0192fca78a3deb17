"""Caffe2's `blobs` files: the ResNet-50s of FAIR's self-supervision benchmark (Goyal et al., ICCV 2019).

Layout: a pickle of `{"blobs": name → array}` with `model_iter`, `lr`, a `…_momentum` blob beside most weights, and
`pred_w`, `fc…`; see `caffe2_blobs` for the names. Jigsaw's network has nine towers, which share convolutions
(`conv1_s0_w`, `res2_0_branch2a_s0_w`) and have batch norms of their own (`res_conv1_bn_s0_s` to `res_conv1_bn_s8_riv`);
the authors' converters keep `_s0` (facebookresearch/fair_self_supervision_benchmark: extra_scripts/
pickle_jigsaw_model.py, self_supervision_benchmark/utils/checkpoints.py and modeling/jigsaw/siamese_model_helper.py).

The networks are fed BGR in 0–1 with ImageNet's mean and std (self_supervision_benchmark/data/data_input.py) and have
their stride in the 3×3 convolution (modeling/resnet_model_helper.py).

The copies "for object detection" hold folded batch norms, nothing of the optimiser, and a conv1 divided by 255·std
(extra_scripts/pickle_caffe2_detection.py --absorb_std, which its README asks for), so pixels are BGR in 0–255 minus
255·mean. Detectron, in which they were used, subtracts 102.9801, 115.9465, 122.7717 instead: half a grey level less.

Colorization takes one channel (L) and has stride 1 in its last stage; it is refused by its first convolution.
"""

from transfer.checkpoints.backbone import InputSpec, Lint
from transfer.checkpoints.caffe2_blobs import holds_blobs, read_blobs
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

NAME = "caffe2"
BENCHMARK_INPUT = InputSpec("BGR", 1.0, (0.406, 0.456, 0.485), (0.225, 0.224, 0.229))
DETECTION_INPUT = InputSpec("BGR", 255.0, (103.53, 116.28, 123.675), (1.0, 1.0, 1.0))
HEAD = "head of the pretext task, or classifier, behind the backbone"

ABSORBED = Lint(
    "absorbed-std",
    "the file cannot say whether its first convolution was divided by 255 times ImageNet's std; assumed is that it "
    "was, as in the benchmark's files for detection",
)


def recognise(tree: Tree) -> Match | Mismatch:
    """Names under `blobs` begin with `res2_0_branch2a_`."""
    if not holds_blobs(weights_under(tree, "blobs")):
        return Mismatch("no name under `blobs` begins with res2_0_branch2a_")
    return Match("ResNet under Caffe2's names (FAIR's self-supervision benchmark)")


def read(tree: Tree, branch: str | None) -> Extracted:
    """Take the first tower; folded batch norms tell the files for detection."""
    blobs = read_blobs(needed_weights(tree, "blobs", NAME), HEAD, "blobs.")
    folded = blobs.spelling == "folded"
    return Extracted(
        blobs.state,
        blobs.dropped + beside(tree, ["blobs"]),
        input=DETECTION_INPUT if folded else BENCHMARK_INPUT,
        notes=blobs.notes,
        lints=(*blobs.lints, ABSORBED) if folded else (),
    )


FORMAT = Format(NAME, (), recognise, read)
