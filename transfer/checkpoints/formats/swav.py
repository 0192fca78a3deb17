"""SwAV, DeepCluster v2 and SeLa v2: released files and training checkpoints, from ResNet-50 to its 5× wide form.

Layout: torchvision's names under `module.`, beside `module.projection_head.` and `module.prototypes.`; released files
are this state dict itself, training checkpoints keep it under "state_dict" (facebookresearch/swav: hubconf.py,
main_swav.py, main_deepclusterv2.py, eval_linear.py). SwAV has one prototype layer (`prototypes.weight`), the others
one per clustering (`prototypes.prototypes0.weight`, …). SeLa v2's training code was not released.

Their ResNet pads by one pixel before a stem convolution that pads by two, which is torchvision's padding of three; the
w2, w4 and w5 forms widen the stem, too (src/resnet50.py). The standard deviation of red is .228, in training and in
evaluation (src/multicropdataset.py, eval_linear.py).
"""

from transfer.checkpoints.backbone import InputSpec
from transfer.checkpoints.declared import Network, Release, prefixed

FORMAT = prefixed(
    Release(
        name="swav",
        title="SwAV",
        variants={"prototypes.prototypes0.": "DeepCluster v2 or SeLa v2 (several clusterings)"},
        networks={"only": Network("")},
        heads={
            "projection_head.": "projection head, behind the backbone",
            "prototypes.": "prototypes, behind the projection head",
        },
        needs=("prototypes.",),
        input=InputSpec(std=(0.228, 0.224, 0.225)),
    )
)
