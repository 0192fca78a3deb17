"""BYOL by yaox12: the release, and the public training code's checkpoints."""

from checkpoint_files import State, Tree, bare_norm, linear, slow_copy, training_state, under, width_of, without_fc

from releases import Release

CHILDREN = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}


def head(prefix: str, inputs: int) -> State:
    return linear(f"{prefix}l1.", inputs, 4096) | bare_norm(f"{prefix}bn1.", 4096) | linear(f"{prefix}l2.", 4096, 256)


def build(state: State) -> Tree:
    backbone, width = without_fc(state), width_of(state)
    return {
        "online_backbone": under("module.", backbone),
        "online_projection": head("module.", width),
        "predictor": head("module.", 256),
        "target_backbone": under("module.", slow_copy(backbone)),
        "target_projection": head("module.", width),
        **training_state(state),
    }


def name_in_sequential(name: str) -> str:
    child, _, rest = name.partition(".")
    return f"{CHILDREN[child]}.{rest}"


def build_training(state: State) -> Tree:
    backbone, width = without_fc(state), width_of(state)
    encoder = {name_in_sequential(name): tensor for name, tensor in backbone.items()}
    return {
        "config": {"model": {"base_momentum": 0.99, "backbone": {"type": "resnet50", "pretrained": False}}},
        "steps": 1000,
        "model": {
            **under("module.online_network.encoder.", encoder),
            **head("module.online_network.projetion.", width),
            **under("module.target_network.encoder.", slow_copy(encoder)),
            **head("module.target_network.projetion.", width),
            **head("module.predictor.predictor.", 256),
        },
        "amp": {"loss_scaler0": {"loss_scale": 65536.0, "unskipped": 0}},
        **training_state(state),
    }


RELEASES = {
    "byol_yaox12": Release(
        title="BYOL (yaox12)",
        format="byol_yaox12",
        build=build,
        place=("online_backbone",),
        key="module.{}".format,
        source="yaox12/BYOL-PyTorch: readme.md, utils/load_and_convert.py",
        branch="online",
        others=("target",),
    ),
    "byol_yaox12_training": Release(
        title="BYOL (yaox12), training checkpoint",
        format="byol_yaox12",
        build=build_training,
        place=("model",),
        key=lambda name: "module.online_network.encoder." + name_in_sequential(name),
        source="yaox12/BYOL-PyTorch: trainer/byol_trainer.py, model/basic_modules.py",
        branch="online",
        others=("target",),
    ),
}
