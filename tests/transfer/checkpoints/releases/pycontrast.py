"""PyContrast's InsDis, MoCo, PIRL and InfoMin; its CMC stands in cmc.py."""

from checkpoint_files import State, Tree, filled, linear, mlp, slow_copy, training_state, under, width_of, without_fc

from releases import Release


def _head(prefix: str, width: int, layers: int) -> State:
    return linear(f"{prefix}0.", width, 128) if layers == 1 else mlp(prefix, width, width, 128)


def _jigsaw_head(width: int, layers: int) -> State:
    first = linear("head_jig.fc1.", width, 128) if layers == 1 else mlp("head_jig.fc1.", width, width, 128)
    return first | linear("head_jig.fc2.", 9 * 128, 128)


def build(state: State, layers: int, jigsaw: bool, moving_average: bool) -> Tree:
    backbone, width = without_fc(state), width_of(state)
    heads = _head("head.", width, layers) | (_jigsaw_head(width, layers) if jigsaw else {})
    negatives = 65536 if moving_average else 1281167
    tree: Tree = {
        "model": under("module.", under("encoder.", backbone) | heads),
        "contrast": {"memory": filled(negatives, 128)},
        **training_state(state),
    }
    if moving_average:
        tree["model_ema"] = under("encoder.", slow_copy(backbone)) | heads
    return tree


def _release(title: str, layers: int, jigsaw: bool, moving_average: bool, **more) -> Release:
    return Release(
        title=title,
        format="pycontrast",
        build=lambda state: build(state, layers, jigsaw, moving_average),
        place=("model",),
        key="module.encoder.{}".format,
        source="HobbitLong/PyContrast: pycontrast/learning/contrast_trainer.py, pycontrast/networks/build_backbone.py",
        branch="model",
        others=("ema",) if moving_average else (),
        **more,
    )


RELEASES = {
    "pycontrast_insdis": _release("InsDis (PyContrast)", 1, False, False),
    "pycontrast_moco_v2": _release("MoCo v2 (PyContrast)", 2, False, True),
    "pycontrast_pirl": _release("PIRL (PyContrast)", 1, True, False, container="legacy"),
    "pycontrast_infomin": _release("InfoMin (PyContrast)", 2, True, True, archs=("resnet50", "resnext101_32x8d")),
}
