"""BYOL by yaox12: the released `resnet50_byol_imagenet2012.pth.tar`, and checkpoints of the public training code.

The release has one state dict per module: `online_backbone`, `online_projection`, `predictor`, and those of the target
network. The backbones have torchvision's names under `module.` and no `fc`, 318 tensors in torchvision's order
(yaox12/BYOL-PyTorch: readme.md, utils/load_and_convert.py). The code that wrote it is not public: that the names under
`module.` are torchvision's comes from other people's loaders, which read them strictly; those of the target network's
entries are by analogy.

The training code writes `{"config", "epoch", "steps", "model", "optimizer", "amp"}`; in `model` lie
`module.online_network.` and `module.target_network.`, each with `encoder.`, a torchvision ResNet as `nn.Sequential`
numbers its children, and the projector `projetion.` (so spelt), beside `module.predictor.`; `module.` only if training
was distributed (yaox12/BYOL-PyTorch: trainer/byol_trainer.py, model/byol_model.py, model/basic_modules.py).

The online network is the one to take; pixels have ImageNet's mean and std (data/byol_transform.py).
"""

from transfer.checkpoints.declared import Network, Release, one_of, prefixed, sequential

NAME = "byol_yaox12"

RELEASED = Release(
    name=NAME,
    title="BYOL by yaox12, release",
    networks={"online": Network("", "online_backbone"), "target": Network("", "target_backbone")},
    heads={
        "online_projection": "projector, behind the backbone",
        "predictor": "predictor, behind the projector",
        "target_projection": "projector of the target network",
    },
)
TRAINING = Release(
    name=NAME,
    title="BYOL by yaox12, training checkpoint",
    networks={"online": Network("online_network.encoder."), "target": Network("target_network.encoder.")},
    heads={
        "online_network.projetion.": "projector, behind the backbone",
        "target_network.projetion.": "projector of the target network",
        "predictor.": "predictor, behind the projector",
    },
    keys=("model", None),
    markers=("4.",),
    rename=sequential,
)
FORMAT = one_of(NAME, prefixed(RELEASED), prefixed(TRAINING))
