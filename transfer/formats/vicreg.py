"""Full training checkpoints of VICReg.

Layout: `{"epoch", "model", "optimizer"}`; `module.backbone.` is a torchvision ResNet without `fc`, `module.projector.`
the expander (facebookresearch/vicreg: main_vicreg.py). The released `resnet50.pth` holds the backbone alone and is a
plain ResNet.
"""

from transfer.prefixed import Network, Release, prefixed

FORMAT = prefixed(
    Release(
        name="vicreg",
        title="VICReg, training checkpoint",
        networks={"only": Network("backbone.")},
        heads={"projector.": "expander, behind the backbone"},
        wrappers=("model", None),
        outer=("module.",),
        needs=("projector.",),
        lacks=("bn.",),
    )
)
