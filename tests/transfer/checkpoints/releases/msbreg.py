"""This project's own pretraining."""

import math

import torch
from checkpoint_files import State, Tree, filled, mlp, slow_copy, training_state, under, width_of, without_fc

from releases import Release
from transfer.checkpoints.backbone import InputSpec


def saved(state: State, arch: str, method: str, **networks: Tree) -> Tree:
    """What every method's file holds, its networks in it."""
    return {
        "format": "msbreg-checkpoint",
        "version": 1,
        "arch": arch,
        "method": method,
        "epoch": 3,
        "step": 42,
        "stem": "imagenet",
        "input": {"channels": "RGB", "value_range": 1.0, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.25]},
        **networks,
        "config": {"recipe": {"arch": arch, "lr": 0.3}},
        "optimizer": training_state(state)["optimizer"],
        "scaler": {},
        "progress": {"step": 42, "unreadable": {}},
    }


def build(state: State) -> Tree:
    arch = "resnet18" if "layer1.2.bn1.bias" not in state else "resnet50"
    encoder = under("encoder.", without_fc(state))
    projector = mlp("projector.", width_of(state), 4096, 256, between_bn=True)
    return saved(
        state,
        arch,
        "msbreg",
        online=encoder | projector | mlp("predictor.", 256, 4096, 256, between_bn=True),
        target=slow_copy(encoder) | projector,
        rest={"queue": torch.zeros(8, 256), "position": torch.tensor(3)},
    )


def transformer(state: State) -> Tree:
    """DINO's, of which the teacher is evaluated; its small views saw the positions resized by DINO's rule."""
    encoder = under("encoder.", without_fc(state))
    size = {192: "tiny", 384: "small"}[width_of(state)]
    patch, tokens = state["patch_embed.proj.weight"].shape[-1], state["pos_embed"].shape[1]
    head = mlp("projector.layers.", width_of(state), 512, 512, 128)
    head |= {"projector.last.direction": filled(1024, 128), "projector.last.length": filled(1024, 1)}
    return saved(
        state,
        f"vit_{size}_patch{patch}_{math.isqrt(tokens) * patch}.offset",
        "dino",
        online=slow_copy(encoder) | head,
        target=encoder | head,
        rest={"center": filled(1024)},
    )


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
    ),
    "msbreg_vit": Release(
        title="DINO on a vision transformer (this project)",
        format="msbreg",
        alone=False,
        build=transformer,
        place=("target",),
        key="encoder.{}".format,
        source="this project: pretrain/checkpoint.py",
        branch="target",
        others=("online",),
        input=InputSpec("RGB", 1.0, (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)),
        archs=(
            *("vit_tiny_patch16_64.offset", "vit_tiny_patch16_128.offset", "vit_small_patch16_224.offset"),
            "vit_small_patch8_64.offset",
        ),
        counters=False,
        lints=("normalisation",),
        real="checkpoints of this project's own runs",
    ),
}
