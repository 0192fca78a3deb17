"""solo-learn: methods with and without a momentum network, its old names, and linear evaluation."""

import torch
from checkpoint_files import State, Tree, filled, linear, mlp, slow_copy, under, width_of, without_fc

from releases import Refusal, Release
from releases.lightning_files import lightning, projector


def networks(state: State, online: str, momentum: str = "") -> State:
    backbone = without_fc(state)
    weights = under(online, backbone) | linear("classifier.", width_of(state), 100)
    return weights | under(momentum, slow_copy(backbone)) if momentum else weights


def byol(state: State, online: str = "backbone.", momentum: str = "momentum_backbone.") -> Tree:
    width = width_of(state)
    heads = projector("projector.", width, 4096, 256) | projector("predictor.", 256, 4096, 256)
    return lightning(
        networks(state, online, momentum)
        | linear("momentum_classifier.", width, 100)
        | heads
        | projector("momentum_projector.", width, 4096, 256)
    )


def old_byol(state: State) -> Tree:
    return byol(state, "encoder.", "momentum_encoder.")


def moco_v2plus(state: State) -> Tree:
    width = width_of(state)
    heads = mlp("projector.", width, 2048, 256) | mlp("momentum_projector.", width, 2048, 256)
    queue = {"queue": filled(2, 256, 65536), "queue_ptr": filled(1)}
    return lightning(networks(state, "backbone.", "momentum_backbone.") | heads | queue)


def dino(state: State) -> Tree:
    weights = networks(state, "backbone.", "momentum_backbone.")
    for name in ("head.", "momentum_head."):
        weights |= mlp(f"{name}mlp.", width_of(state), 2048, 2048, 256)
        weights |= {f"{name}last_layer.weight_g": filled(4096, 1), f"{name}last_layer.weight_v": filled(4096, 256)}
    return lightning(weights | {"dino_loss_func.center": filled(1, 4096)})


def all4one(state: State) -> Tree:
    width = width_of(state)
    weights = networks(state, "backbone.", "momentum_backbone.")
    for name in ("projector.", "momentum_projector."):
        weights |= projector(name, width, 2048, 2048, 256, last_norm=True)
    for name in ("predictor.", "predictor2."):
        weights |= projector(name, 256, 4096, 256)
    with torch.device("meta"):
        layer = torch.nn.TransformerEncoderLayer(256, 8, 512)
        transformer = torch.nn.TransformerEncoder(layer, 3, enable_nested_tensor=False).state_dict()
    weights |= {f"transformer_encoder.{name}": filled(*tensor.shape) for name, tensor in transformer.items()}
    weights |= {"queue": filled(98304, 256), "queue_y": filled(98304), "queue_ptr": filled(1)}
    return lightning(weights | {"queue_index": filled(98304), "pos_enc.penc.penc.inv_freq": filled(3)})


def barlow_twins(state: State) -> Tree:
    return lightning(networks(state, "backbone.") | projector("projector.", width_of(state), 2048, 2048, 2048))


def swav(state: State) -> Tree:
    prototypes = {"prototypes.weight_g": filled(3000, 1), "prototypes.weight_v": filled(3000, 128)}
    return lightning(
        networks(state, "backbone.")
        | projector("projector.", width_of(state), 2048, 128)
        | prototypes
        | {"queue": filled(2, 1920, 128)}
    )


def deepcluster_v2(state: State) -> Tree:
    prototypes = {f"prototypes.{i}.weight": filled(3000, 128) for i in range(3)}
    memory = {"local_memory_index": filled(64), "local_memory_embeddings": filled(2, 64, 128)}
    heads = projector("projector.", width_of(state), 2048, 128)
    return lightning(networks(state, "backbone.") | heads | prototypes | memory)


def cifar(state: State) -> Tree:
    tree = barlow_twins(state)
    tree["state_dict"]["backbone.conv1.weight"] = filled(64, 3, 3, 3)
    return tree


def _release(title: str, build, source: str, momentum: bool = True, online: str = "backbone.", **more) -> Release:
    return Release(
        title=f"solo-learn, {title}",
        format="solo_learn",
        build=build,
        place=("state_dict",),
        key=f"{online}{{}}".format,
        source=f"vturrisi/solo-learn: solo/methods/{source}.py",
        branch="online" if momentum else "only",
        others=("momentum",) if momentum else (),
        **more,
    )


RELEASES = {
    "solo_byol": _release("BYOL", byol, "byol", archs=("resnet18", "resnet50")),
    "solo_old": _release("before December 2021", old_byol, "base", online="encoder.", archs=("resnet18",)),
    "solo_moco_v2plus": _release("MoCo v2+", moco_v2plus, "mocov2plus"),
    "solo_dino": _release("DINO", dino, "dino", archs=("resnet18",)),
    "solo_all4one": _release("All4One", all4one, "all4one", archs=("resnet18",)),
    "solo_barlow": _release("Barlow Twins", barlow_twins, "barlow_twins", momentum=False),
    "solo_swav": _release("SwAV", swav, "swav", momentum=False, archs=("resnet18",)),
    "solo_deepcluster_v2": _release(
        "DeepCluster v2", deepcluster_v2, "deepclusterv2", momentum=False, archs=("resnet18",)
    ),
    "solo_linear": _release(
        "linear evaluation",
        lambda state: lightning(networks(state, "backbone.")),
        "linear",
        momentum=False,
        lints=("classifier",),
    ),
    "solo_flattened": Release(
        title="solo-learn, the state dict alone",
        format="solo_learn",
        build=lambda state: byol(state)["state_dict"],
        place=(),
        key="backbone.{}".format,
        source="vturrisi/solo-learn: solo/methods/byol.py",
        container="safetensors",
        branch="online",
        others=("momentum",),
        archs=("resnet18",),
    ),
}

REFUSED = {
    "solo_cifar": Refusal(
        title="solo-learn, CIFAR",
        build=cifar,
        says=("CIFAR stem", "3×3"),
        source="vturrisi/solo-learn: solo/methods/base.py",
        format="solo_learn",
    )
}
