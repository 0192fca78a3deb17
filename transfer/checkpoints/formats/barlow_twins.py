"""Full training checkpoints of Barlow Twins.

Layout: `{"epoch", "model", "optimizer"}`; `module.backbone.` is a torchvision ResNet without `fc`, `module.projector.`
the projector and `module.bn.` the normalisation inside the loss (without weight and bias), the file's own
mark (facebookresearch/barlowtwins: main.py). The released `resnet50.pth` holds the backbone alone and is a plain
ResNet (hubconf.py), as are checkpoints of its linear evaluation (evaluate.py).
"""

from transfer.checkpoints.declared import Network, Release, prefixed

FORMAT = prefixed(
    Release(
        name="barlow_twins",
        title="Barlow Twins, training checkpoint",
        networks={"only": Network("backbone.")},
        heads={
            "projector.": "projector, behind the backbone",
            "bn.": "batch normalisation inside the Barlow Twins loss",
        },
        keys=("model", None),
        outer=("module.",),
        needs=("bn.",),
        general=-1,
    )
)
