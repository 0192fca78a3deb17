"""Full training checkpoints of VICReg.

Layout: `{"epoch", "model", "optimizer"}`; `module.backbone.` is a ResNet under torchvision's names without `fc`,
`module.projector.` the expander (facebookresearch/vicreg: main_vicreg.py, evaluate.py). Released are ResNet-50, its 2×
wide form, stem included, and a 2× wide ResNet-200, which no engine builds; each as `*_fullckpt.pth` in this layout and
as a bare backbone, which is a plain ResNet (README.md, hubconf.py). Padding is divided between a layer and the stem
convolution, one and two pixels, and adds up to torchvision's three (resnet.py).
"""

from transfer.checkpoints.declared import Network, Release, prefixed

FORMAT = prefixed(
    Release(
        name="vicreg",
        title="VICReg, training checkpoint",
        networks={"only": Network("backbone.")},
        heads={"projector.": "expander, behind the backbone"},
        keys=("model", None),
        outer=("module.",),
        needs=("projector.",),
    )
)
