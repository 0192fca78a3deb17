"""The CMC repository's InsDis and MoCo; its CMC and PyContrast's, which are refused."""

from argparse import Namespace

from checkpoint_files import State, Tree, filled, linear, slow_copy, training_state, under, width_of, without_fc

from releases import Refusal, Release


def build(state: State, moving_average: bool) -> Tree:
    head = linear("fc.", width_of(state), 128)
    tree: Tree = {
        "opt": Namespace(model="resnet50", nce_k=16384, softmax=True, lr_decay_epochs=[120, 160]),
        "model": under("encoder.module.", without_fc(state) | head),
        "contrast": {"params": filled(4), "memory": filled(16384, 128)},
        **training_state(state),
    }
    if moving_average:
        tree["model_ema"] = under("encoder.module.", slow_copy(without_fc(state)) | head)
    return tree


def branch(state: State, channels: int) -> State:
    """One of CMC's networks: stages of half width behind a stem of 64 channels."""
    found = {}
    for name, tensor in without_fc(state).items():
        shape = list(tensor.shape)
        if name == "conv1.weight":
            shape[1] = channels
        elif not name.startswith("bn1.") and shape:
            shape[0] //= 2
            if len(shape) == 4 and name not in ("layer1.0.conv1.weight", "layer1.0.downsample.0.weight"):
                shape[1] //= 2
        found[name] = filled(*shape)
    return found


def build_cmc(state: State) -> Tree:
    head = linear("fc.", 1024, 128)
    model = under("encoder.module.l_to_ab.", branch(state, 1) | head)
    model |= under("encoder.module.ab_to_l.", branch(state, 2) | head)
    memory = {"params": filled(5), "memory_l": filled(1281167, 128), "memory_ab": filled(1281167, 128)}
    return {"opt": Namespace(model="resnet50v1"), "model": model, "contrast": memory, **training_state(state)}


def build_pycontrast(state: State) -> Tree:
    model: State = {}
    for number in (1, 2):
        model |= under(f"encoder{number}.", branch(state, number)) | linear(f"head{number}.0.", 1024, 128)
    memory = {"memory_1": filled(1281167, 128), "memory_2": filled(1281167, 128)}
    return {"model": under("module.", model), "contrast": memory, **training_state(state)}


def _release(title: str, moving_average: bool) -> Release:
    return Release(
        title=title,
        format="cmc_insdis",
        build=lambda state: build(state, moving_average),
        place=("model",),
        key="encoder.module.{}".format,
        source="HobbitLong/CMC: train_moco_ins.py, models/resnet.py",
        branch="model",
        others=("ema",) if moving_average else (),
        container="legacy",
    )


RELEASES = {
    "cmc_insdis": _release("InsDis (CMC repository)", False),
    "cmc_moco": _release("MoCo (CMC repository)", True),
}

REFUSED = {
    "cmc": Refusal(
        "CMC",
        build_cmc,
        ("CMC", "luminance", "InfoMin"),
        "HobbitLong/CMC: train_CMC.py, models/resnet.py",
        format="cmc",
        container="legacy",
    ),
    "pycontrast_cmc": Refusal(
        "CMC (PyContrast)",
        build_pycontrast,
        ("CMC", "luminance", "InfoMin"),
        "HobbitLong/PyContrast: pycontrast/networks/build_backbone.py",
        format="cmc",
    ),
}
