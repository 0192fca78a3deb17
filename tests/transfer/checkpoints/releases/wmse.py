"""W-MSE's repository, and what is recognised and cannot be built."""

from checkpoint_files import State, Tree, bare_norm, filled, linear, slow_copy, under, width_of, without_fc

from releases import Refusal, Release


def head(prefix: str, inputs: int) -> State:
    return linear(f"{prefix}0.", inputs, 1024) | bare_norm(f"{prefix}1.", 1024) | linear(f"{prefix}3.", 1024, 128)


def build_wmse(state: State) -> Tree:
    encoder = under("model.module.", without_fc(state))
    return {**encoder, **head("head.", width_of(state))}


def build_byol(state: State) -> Tree:
    width, encoder = width_of(state), without_fc(state)
    return {
        **build_wmse(state),
        **head("pred.", 128),
        **under("model_t.module.", slow_copy(encoder)),
        **head("head_t.", width),
    }


def build_cifar(state: State) -> Tree:
    return build_wmse(state | {"conv1.weight": filled(64, 3, 3, 3)})


def build_preactivation(state: State) -> Tree:
    """`PreActResNet18`: two normalisations a block, before the convolutions, and a shortcut in each first block."""
    weights: State = {"conv1.weight": filled(64, 3, 7, 7)}
    wide = 64
    for stage, planes in enumerate((64, 128, 256, 512), start=1):
        for block in range(2):
            place = f"layer{stage}.{block}."
            weights |= bare_norm(f"{place}bn1.", wide)
            if block == 0:
                weights[f"{place}shortcut.0.weight"] = filled(planes, wide, 1, 1)
            weights[f"{place}conv1.weight"] = filled(planes, wide, 3, 3)
            weights |= bare_norm(f"{place}bn2.", planes)
            weights[f"{place}conv2.weight"] = filled(planes, planes, 3, 3)
            wide = planes
    weights |= bare_norm("bn.", 512) | linear("linear.", 512, 128)
    return {"model_state_dict": weights, "optim_state_dict": {"state": {}, "param_groups": []}, "epoch": 200}


SOURCE = "htdt/self-supervised: model.py, methods/, train.py"
RELEASES = {
    "wmse": Release(
        title="W-MSE, ImageNet-100",
        format="wmse",
        build=build_wmse,
        place=(),
        key="model.module.{}".format,
        source=SOURCE,
        branch="online",
        archs=("resnet18", "resnet50"),
    ),
    "wmse_byol": Release(
        title="BYOL (W-MSE's repository), ImageNet-100",
        format="wmse",
        build=build_byol,
        place=(),
        key="model.module.{}".format,
        source=SOURCE,
        branch="online",
        others=("target",),
        archs=("resnet18", "resnet50"),
    ),
}
REFUSED = {
    "wmse_cifar": Refusal(
        title="W-MSE, CIFAR, STL-10 and Tiny ImageNet",
        build=build_cifar,
        says=("CIFAR stem", "7×7"),
        source=SOURCE,
        format="wmse",
    ),
    "local_aggregation": Refusal(
        title="Local Aggregation",
        build=build_preactivation,
        says=("pre-activation", "MoCo"),
        source="neuroailab/LocalAggregation-Pytorch: src/models/preact_resnet.py",
        format="local_aggregation",
    ),
}
