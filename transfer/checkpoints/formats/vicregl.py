"""Full training checkpoints of VICRegL with a ResNet.

Layout: `{"epoch", "model", "optimizer"}`; `module.backbone.` is a torchvision ResNet without `fc`,
`module.maps_projector.` (absent for alpha 1) and `module.projector.` (absent for alpha 0) the expanders of feature
maps and of their average, `module.classifier.` a linear classifier trained alongside (facebookresearch/VICRegL:
main_vicregl.py, utils.py). The classifier's gradient does not reach the backbone, whose features it takes detached.

Pretraining divides red by .228 (transforms.py there), linear evaluation by .229 (evaluate.py); the former is what the
weights were made with. The released `resnet50_alpha*.pth` hold the backbone alone and are plain ResNets, whose .228
nothing in the file tells.
"""

from transfer.checkpoints.backbone import InputSpec
from transfer.checkpoints.declared import Network, Release, prefixed

FORMAT = prefixed(
    Release(
        name="vicregl",
        title="VICRegL, training checkpoint",
        networks={"only": Network("backbone.")},
        heads={
            "maps_projector.": "expander of feature maps, behind the backbone",
            "projector.": "expander, behind the backbone",
            "classifier.": "online classifier, trained on detached features",
        },
        keys=("model", None),
        outer=("module.",),
        needs=("maps_projector.", "classifier."),
        general=-1,
        input=InputSpec(std=(0.228, 0.224, 0.225)),
    )
)
