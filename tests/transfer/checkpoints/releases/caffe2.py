"""FAIR's self-supervision benchmark: Caffe2 blobs of Jigsaw and supervised ResNet-50s, and copies for detection."""

import numpy as np
import torch
from checkpoint_files import State, Tree, filled, width_of, without_fc

from releases import Refusal, Release
from transfer.checkpoints.backbone import InputSpec

SOURCE = "facebookresearch/fair_self_supervision_benchmark: "
BENCHMARK = {"weight": "s", "bias": "b", "running_mean": "rm", "running_var": "riv"}


def blob(name: str, spelling: dict[str, str] = BENCHMARK, tower: str = "") -> str:
    """Caffe2's name of a torchvision tensor: written as the authors build their nets, layer by layer."""
    parts = name.split(".")
    kind = parts.pop()
    if parts[0].startswith("layer"):
        layer = {"downsample": "branch1"}.get(parts[2]) or f"branch2{'abc'[int(parts[2][-1]) - 1]}"
        prefix, norm = f"res{int(parts[0][5]) + 1}_{parts[1]}_{layer}", "bn" in parts[2] or parts[-1] == "1"
    else:
        prefix, norm = {"conv1": ("conv1", False), "bn1": ("res_conv1", True)}[parts[0]]
    return f"{prefix}_bn{tower}_{spelling[kind]}" if norm else f"{prefix}{tower}_w"


def uncounted(state: State) -> State:
    """The backbone as Caffe2 knows it: without batch counters."""
    return {name: value for name, value in without_fc(state).items() if not name.endswith("num_batches_tracked")}


def is_statistic(name: str) -> bool:
    return name.endswith(("running_mean", "running_var"))


def folded(state: State) -> State:
    """What a file with folded norms must give: y = s·x + b as a norm with mean 0 and variance 1 − 1e-5."""
    found = dict(state)
    for name in [name for name in state if name.endswith("running_mean")]:
        norm = name.removesuffix("running_mean")
        std = (state[f"{norm}running_var"] + 1e-5).sqrt()
        found[f"{norm}weight"] = state[f"{norm}weight"] / std
        found[f"{norm}bias"] = state[f"{norm}bias"] - state[name] * state[f"{norm}weight"] / std
        found[name] = torch.zeros(state[name].shape)
        found[f"{norm}running_var"] = torch.full(state[name].shape, 1 - 1e-5)
    return found


def arrays(blobs: State) -> Tree:
    return {name: value.numpy() for name, value in blobs.items()}


def training(blobs: State) -> Tree:
    """What save_model_params keeps beside the parameters; statistics have no momentum."""
    momentum = {f"{name}_momentum": value for name, value in blobs.items() if not name.endswith(("_rm", "_riv"))}
    return {**arrays(momentum), "model_iter": 1_001_000, "lr": np.array([0.0001], dtype=np.float32)}


def supervised(state: State) -> Tree:
    blobs = {blob(name): value for name, value in uncounted(state).items()}
    blobs |= {"pred_w": filled(1000, width_of(state)), "pred_b": filled(1000)}
    return {"blobs": {**arrays(blobs), **training(blobs)}}


def jigsaw(state: State) -> Tree:
    """Nine towers: convolutions shared under _s0, a batch norm for each."""
    backbone = uncounted(state)
    blobs = {blob(name, tower="_s0"): value for name, value in backbone.items()}
    for tower in range(1, 9):
        norms = {name: value for name, value in backbone.items() if "_bn_" in blob(name)}
        blobs |= {blob(name, tower=f"_s{tower}"): torch.full_like(value, 2.0) for name, value in norms.items()}
    blobs |= {"fc6_s0_w": filled(1024, width_of(state)), "fc6_s0_b": filled(1024)}
    blobs |= {"fc7_w": filled(4096, 9216), "fc7_b": filled(4096), "pred_w": filled(2000, 4096), "pred_b": filled(2000)}
    return {"blobs": {**arrays(blobs), **training(blobs)}}


def detection(state: State) -> Tree:
    backbone = {name: value for name, value in uncounted(folded(state)).items() if not is_statistic(name)}
    return {"blobs": arrays({blob(name): value for name, value in backbone.items()} | {"pred_b": filled(2000)})}


def colorization(state: State) -> Tree:
    blobs = {blob(name): value for name, value in uncounted(state).items()}
    return {"blobs": arrays(blobs | {"conv1_w": filled(64, 1, 7, 7)})}


def group_norm(state: State) -> Tree:
    names = {blob(name): value for name, value in uncounted(state).items() if not is_statistic(name)}
    return arrays({name.replace("_bn_", "_gn_"): value for name, value in names.items()})


def _release(title: str, build, source: str, **more) -> Release:
    facts = {"input": InputSpec("BGR", 1.0, (0.406, 0.456, 0.485), (0.225, 0.224, 0.229)), "key": blob} | more
    return Release(
        title=title,
        format="caffe2",
        build=build,
        place=("blobs",),
        source=SOURCE + source,
        container="pickle",
        counters=False,
        lints=("bgr", *facts.pop("lints", ())),
        **facts,
    )


RELEASES = {
    "caffe2_supervised": _release(
        "Caffe2 supervised (Goyal '19)", supervised, "self_supervision_benchmark/utils/checkpoints.py"
    ),
    "caffe2_jigsaw": _release(
        "Jigsaw (Goyal '19)",
        jigsaw,
        "self_supervision_benchmark/modeling/jigsaw/siamese_model_helper.py",
        key=lambda name: blob(name, tower="_s0"),
    ),
    "caffe2_detection": _release(
        "Jigsaw (Goyal '19), for detection",
        detection,
        "extra_scripts/pickle_caffe2_detection.py",
        reads=folded,
        derived=is_statistic,
        input=InputSpec("BGR", 255.0, (103.53, 116.28, 123.675), (1.0, 1.0, 1.0)),
        lints=("normalisation", "statistics", "absorbed-std"),
    ),
}
REFUSED = {
    "caffe2_colorization": Refusal(
        "Colorization (Goyal '19)",
        colorization,
        ("takes 1 input channels",),
        SOURCE + "self_supervision_benchmark/modeling/colorization/resnet_colorize_finetune_full.py",
        format="caffe2",
        container="pickle",
    ),
    "detectron1_gn": Refusal(
        "Detectron, R-50-GN.pkl",
        group_norm,
        ("group normalisation",),
        "facebookresearch/detectron2: detectron2/checkpoint/c2_model_loading.py",
        format="detectron1",
        container="pickle",
    ),
}
