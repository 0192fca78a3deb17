"""SwAV, DeepCluster v2 and SeLa v2, as released and as training writes them."""

from checkpoint_files import State, Tree, bare_norm, linear, training_state, under, width_of, without_fc

from releases import Release
from transfer.checkpoints.backbone import InputSpec


def weights(state: State, clusterings: int) -> State:
    width = width_of(state)
    hidden = 2048 if width == 2048 else 8192
    head = linear("0.", width, hidden) | bare_norm("1.", hidden) | linear("3.", hidden, 128)
    names = ["prototypes."] if clusterings == 1 else [f"prototypes.prototypes{i}." for i in range(clusterings)]
    found = without_fc(state) | under("projection_head.", head)
    for name in names:
        found |= linear(name, 128, 3000, bias=False)
    return under("module.", found)


def build_training(state: State) -> Tree:
    amp = {"loss_scaler0": {"loss_scale": 65536.0, "unskipped": 17}}
    return {"state_dict": weights(state, 1), **training_state(state), "amp": amp}


def _release(title: str, build, source: str, place=(), **more) -> Release:
    return Release(
        title=title,
        format="swav",
        build=build,
        place=place,
        key="module.{}".format,
        source=source,
        input=InputSpec(std=(0.228, 0.224, 0.225)),
        lints=("normalisation",),
        **more,
    )


RELEASES = {
    "swav": _release(
        "SwAV, ResNet-50 and its wide forms",
        lambda state: weights(state, 1),
        "facebookresearch/swav: hubconf.py, src/resnet50.py",
        archs=("resnet50", "resnet50w2"),
        container="legacy",
    ),
    "swav_training": _release(
        "SwAV, training checkpoint", build_training, "facebookresearch/swav: main_swav.py", place=("state_dict",)
    ),
    "deepcluster_v2": _release(
        "DeepCluster v2", lambda state: weights(state, 3), "facebookresearch/swav: main_deepclusterv2.py"
    ),
    "sela_v2": _release("SeLa v2", lambda state: weights(state, 3), "facebookresearch/swav: README.md"),
}
