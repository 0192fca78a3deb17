"""MMSelfSup 1.x and 0.x, OpenSelfSup, MMPretrain; their extracted backbones are plain ResNets."""

from checkpoint_files import (
    State,
    Tree,
    bare_norm,
    filled,
    linear,
    slow_copy,
    training_state,
    under,
    width_of,
    without_fc,
)

from releases import Refusal, Release

META_1X = {"epoch": 200, "iter": 1000, "cfg": "model = dict(…)", "seed": 0, "mmengine_version": "0.7.0"}
META_0X = {"epoch": 200, "iter": 1000, "mmcv_version": "1.3.16", "time": "Mon Nov  1 00:00:00 2021"}
META_OPENSELFSUP = {
    "epoch": 200,
    "iter": 1000,
    "mmcv_version": "1.0.3",
    "openselfsup_version": "0.3.0+abc",
    "config": "",
}


def neck(prefix: str, width: int, hidden: int, out: int) -> State:
    """NonLinearNeck."""
    return (
        linear(f"{prefix}fc0.", width, hidden)
        | bare_norm(f"{prefix}bn0.", hidden)
        | linear(f"{prefix}fc1.", hidden, out)
    )


def mlp_neck(prefix: str, width: int) -> State:
    """MoCoV2Neck."""
    return linear(f"{prefix}mlp.0.", width, width) | linear(f"{prefix}mlp.2.", width, 128)


def saved(weights: State, meta: dict[str, object], **more: object) -> Tree:
    return {"meta": meta, "state_dict": weights, "optimizer": training_state(weights)["optimizer"], **more}


def mmengine(weights: State) -> Tree:
    """mmengine's own entries; its HistoryBuffers are tested with its own saving code."""
    hub = {"log_scalars": {}, "runtime_info": {"iter": 1000}, "resumed_keys": {"iter": True}}
    return saved(weights, META_1X, message_hub=hub, param_schedulers=[{"last_step": 200}])


def averaged(state: State, average: str, necks: State) -> State:
    """1.x: the moving average of backbone and neck is a module with a counter."""
    backbone = without_fc(state)
    weights = under("backbone.", backbone) | under("neck.", necks)
    return (
        weights
        | under(f"{average}.module.0.", slow_copy(backbone))
        | under(f"{average}.module.1.", necks)
        | {f"{average}.steps": filled(1)}
    )


def twice(state: State, online: str, average: str, necks: State) -> State:
    """0.x and OpenSelfSup: `backbone` is the first child of the online network, so its tensors have two names."""
    backbone = without_fc(state)
    weights = under(f"{online}.0.", backbone) | under(f"{online}.1.", necks) | under("backbone.", backbone)
    if average:
        weights |= under(f"{average}.0.", slow_copy(backbone)) | under(f"{average}.1.", necks)
    return weights


def queue(*names: str) -> State:
    return {name: filled(128, 65536) for name in names} | {f"{name}_ptr": filled(1) for name in names}


def moco(state: State) -> Tree:
    return mmengine(averaged(state, "encoder_k", mlp_neck("", width_of(state))) | queue("queue"))


def densecl(state: State) -> Tree:
    necks = mlp_neck("", width_of(state)) | {"mlp2.0.weight": filled(2048, 2048, 1, 1)}
    return mmengine(averaged(state, "encoder_k", necks) | queue("queue", "queue2"))


def byol(state: State) -> Tree:
    predictor = neck("head.predictor.", 256, 4096, 256)
    return mmengine(averaged(state, "target_net", neck("", width_of(state), 4096, 256)) | predictor)


def moco_v3(state: State) -> Tree:
    predictor = neck("head.predictor.", 256, 4096, 256)
    return mmengine(averaged(state, "momentum_encoder", neck("", width_of(state), 4096, 256)) | predictor)


def simclr(state: State) -> Tree:
    return mmengine(under("backbone.", without_fc(state)) | neck("neck.", width_of(state), 2048, 128))


def deepcluster(state: State) -> Tree:
    head = linear("head.fc_cls.", width_of(state), 10000) | {"loss_weight": filled(10000)}
    return mmengine(under("backbone.", without_fc(state)) | head)


def odc(state: State) -> Tree:
    weights = under("backbone.", without_fc(state)) | neck("neck.", width_of(state), 512, 256)
    head = linear("head.fc_cls.", 256, 10000) | {"loss_weight": filled(10000)}
    return mmengine(weights | head | {"memory_bank.centroids": filled(10000, 256)})


def old_moco(state: State, meta: dict[str, object]) -> Tree:
    necks = mlp_neck("", width_of(state))
    weights = twice(state, "encoder_q", "encoder_k", necks) | queue("queue")
    return saved(weights if meta is META_OPENSELFSUP else weights | under("neck.", necks), meta)


def old_byol(state: State) -> Tree:
    weights = twice(state, "online_net", "target_net", neck("", width_of(state), 4096, 256))
    return saved(weights | neck("head.predictor.", 256, 4096, 256), META_OPENSELFSUP)


def old_simsiam(state: State) -> Tree:
    necks = neck("", width_of(state), 2048, 2048)
    weights = twice(state, "encoder", "", necks) | under("neck.", necks)
    return saved(weights | neck("head.predictor.", 2048, 512, 2048), META_0X)


def classifier(state: State) -> Tree:
    weights = under("backbone.", without_fc(state)) | linear("head.fc.", width_of(state), 1000)
    return {"meta": {"mmpretrain_version": "1.0.0rc7", "dataset_meta": {}}, "state_dict": weights}


def classifier_averaged(state: State) -> Tree:
    tree = classifier(state)
    shadow = under("module.", slow_copy(tree["state_dict"])) | {"steps": filled(1)}
    return tree | {"ema_state_dict": shadow}


def deep_stem(state: State) -> Tree:
    tree = classifier(state)
    weights = tree["state_dict"]
    for name in [name for name in weights if name.startswith(("backbone.conv1.", "backbone.bn1."))]:
        del weights[name]
    for index, shape in ((0, (32, 3, 3, 3)), (3, (32, 32, 3, 3)), (6, (64, 32, 3, 3))):
        weights[f"backbone.stem.{index}.weight"] = filled(*shape)
    return tree


def unequal(state: State) -> Tree:
    tree = old_moco(state, META_0X)
    tree["state_dict"]["encoder_q.0.bn1.bias"] = filled(64)
    return tree


def _release(title: str, build, source: str, average: bool = True, **more) -> Release:
    return Release(
        title=title,
        format="mmselfsup",
        build=build,
        place=("state_dict",),
        key="backbone.{}".format,
        source=source,
        container="legacy" if source.startswith("open-mmlab/mmselfsup") else "zip",
        branch="online" if average else "only",
        others=("momentum",) if average else (),
        **more,
    )


_MM = "open-mmlab/mmselfsup: mmselfsup/models/algorithms"
_OLD = "open-mmlab/OpenSelfSup: openselfsup/models"

RELEASES = {
    "mmselfsup_moco": _release("MMSelfSup 1.x, MoCo", moco, f"{_MM}/moco.py"),
    "mmselfsup_densecl": _release("MMSelfSup 1.x, DenseCL", densecl, f"{_MM}/densecl.py"),
    "mmselfsup_byol": _release(
        "MMSelfSup 1.x, BYOL",
        byol,
        f"{_MM}/byol.py",
        real="a file that mmengine's saver wrote (made-up weights)",
    ),
    "mmselfsup_moco_v3": _release("MMSelfSup 1.x, MoCo v3", moco_v3, f"{_MM}/mocov3.py"),
    "mmselfsup_simclr": _release("MMSelfSup 1.x, SimCLR and others", simclr, f"{_MM}/simclr.py", average=False),
    "mmselfsup_deepcluster": _release(
        "MMSelfSup 1.x, DeepCluster", deepcluster, f"{_MM}/deepcluster.py", average=False
    ),
    "mmselfsup_odc": _release("MMSelfSup 1.x, ODC", odc, f"{_MM}/odc.py", average=False),
    "mmselfsup_0x_moco": _release("MMSelfSup 0.x, MoCo", lambda s: old_moco(s, META_0X), f"{_MM}/moco.py (0.x)"),
    "mmselfsup_0x_simsiam": _release("MMSelfSup 0.x, SimSiam", old_simsiam, f"{_MM}/simsiam.py (0.x)", average=False),
    "openselfsup_moco": _release(
        "OpenSelfSup, MoCo", lambda s: old_moco(s, META_OPENSELFSUP), f"{_OLD}/moco.py", archs=("resnet50", "resnet18")
    ),
    "openselfsup_byol": _release("OpenSelfSup, BYOL", old_byol, f"{_OLD}/byol.py"),
    "openselfsup_densecl": _release(
        "DenseCL, training checkpoint",
        lambda s: saved(
            twice(s, "encoder_q", "encoder_k", mlp_neck("", 2048) | {"mlp2.0.weight": filled(2048, 2048, 1, 1)})
            | queue("queue", "queue2"),
            META_OPENSELFSUP,
        ),
        "WXinlong/DenseCL: openselfsup/models/densecl.py",
    ),
    "mmpretrain": _release(
        "MMPretrain, supervised",
        classifier,
        "open-mmlab/mmpretrain: mmpretrain/models/classifiers/image.py, heads/linear_head.py",
        average=False,
        archs=("resnet50", "resnet18", "resnet34", "resnet101", "resnet152"),
        lints=("classifier",),
    ),
    "mmpretrain_ema": _release(
        "MMPretrain, supervised with EMAHook",
        classifier_averaged,
        "open-mmlab/mmengine: mmengine/hooks/ema_hook.py",
        average=False,
        lints=("classifier",),
    ),
    "mmselfsup_flattened": Release(
        title="MMSelfSup, the state dict alone",
        format="mmselfsup",
        build=lambda state: byol(state)["state_dict"],
        place=(),
        key="backbone.{}".format,
        source=f"{_MM}/byol.py",
        container="safetensors",
        branch="online",
        others=("momentum",),
    ),
    "mmselfsup_extracted": Release(
        title="MMSelfSup, OpenSelfSup and DenseCL, extracted backbone",
        format="torchvision",
        build=lambda state: {"state_dict": without_fc(state), "author": "MMSelfSup"},
        place=("state_dict",),
        key=str,
        source="open-mmlab/mmselfsup: tools/model_converters/extract_backbone_weights.py",
    ),
}

REFUSED = {
    "mmpretrain_v1d": Refusal(
        title="MMPretrain ResNet-V1c and V1d",
        build=deep_stem,
        says=("deep stem", "V1c/V1d"),
        source="open-mmlab/mmpretrain: mmpretrain/models/backbones/resnet.py",
        format="mmselfsup",
    ),
    "mmselfsup_unequal": Refusal(
        title="MMSelfSup 0.x whose two copies of the online network differ",
        build=unequal,
        says=("the two differ", "encoder_q.0.bn1.bias"),
        source=f"{_MM}/moco.py (0.x)",
        format="mmselfsup",
    ),
    "mmselfsup_sobel": Refusal(
        title="DeepCluster on Sobel-filtered images",
        build=lambda state: saved(
            under("backbone.", without_fc(state) | {"conv1.weight": filled(64, 2, 7, 7)})
            | {"sobel_layer.sobel.0.weight": filled(1, 3, 1, 1), "sobel_layer.sobel.0.bias": filled(1)},
            META_0X,
        ),
        says=("2 input channels",),
        source="open-mmlab/mmselfsup: mmselfsup/models/utils/sobel.py",
        format="mmselfsup",
    ),
}
