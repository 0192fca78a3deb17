"""This project's own pretraining."""

import torch
from checkpoint_files import State, Tree, mlp, slow_copy, training_state, under, width_of, without_fc

from releases import Release
from transfer.checkpoints.backbone import InputSpec


def build(state: State) -> Tree:
    arch = "resnet18" if "layer1.2.bn1.bias" not in state else "resnet50"
    encoder = under("encoder.", without_fc(state))
    projector = mlp("projector.", width_of(state), 4096, 256, between_bn=True)
    return {
        "format": "msbreg-checkpoint",
        "version": 1,
        "arch": arch,
        "method": "msbreg",
        "epoch": 3,
        "step": 42,
        "stem": "imagenet",
        "input": {"channels": "RGB", "value_range": 1.0, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.25]},
        "online": encoder | projector | mlp("predictor.", 256, 4096, 256, between_bn=True),
        "target": slow_copy(encoder) | projector,
        "config": {"recipe": {"arch": arch, "lr": 0.3}},
        "optimizer": training_state(state)["optimizer"],
        "scaler": {},
        "progress": {"step": 42, "unreadable": {}},
        "rest": {"queue": torch.zeros(8, 256), "position": torch.tensor(3)},
    }


RELEASES = {
    "msbreg": Release(
        title="MSBReg (this project)",
        format="msbreg",
        alone=False,
        build=build,
        place=("online",),
        key="encoder.{}".format,
        source="this project: pretrain/checkpoint.py",
        branch="online",
        others=("target",),
        input=InputSpec("RGB", 1.0, (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)),
        archs=("resnet18", "resnet50"),
        lints=("normalisation",),
        real="checkpoints of this project's own runs",
    )
}
