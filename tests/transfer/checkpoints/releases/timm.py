"""timm: checkpoints of its training script; its bare files are plain ResNets."""

import argparse

import torch
from checkpoint_files import State, Tree, slow_copy, training_state, under, without_fc

from releases import Refusal, Release

SAVER = "huggingface/pytorch-image-models: timm/utils/checkpoint_saver.py"


def trainer(state: State, arch: str = "resnet50", ema: bool = True) -> Tree:
    """What CheckpointSaver writes; timm's own loader takes the averaged network where there is one."""
    scaler = {"scale": 65536.0, "growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 2000}
    return {
        **training_state(state),
        "arch": arch,
        "version": 2,
        "args": argparse.Namespace(model=arch, lr=0.1, mean=None),
        "amp_scaler": scaler | {"_growth_tracker": 0},
        "state_dict": slow_copy(state) if ema else dict(state),
        **({"state_dict_ema": dict(state)} if ema else {}),
        "metric": 77.5,
        "saver": {"checkpoint_files": [("checkpoint-9.pth.tar", 77.5)], "best_epoch": 9, "pending": (9, 77.5)},
    }


def model_ema(state: State) -> Tree:
    """What torchvision's train.py writes with --model-ema."""
    average = {"n_averaged": torch.tensor(312), **under("module.", state)}
    return {
        "model": slow_copy(state),
        **training_state(state),
        "lr_scheduler": {"last_epoch": 9, "_last_lr": [0.1]},
        "args": argparse.Namespace(model="resnet50", model_ema=True),
        "model_ema": average,
    }


def deep_stem(state: State) -> Tree:
    """resnet50d: three convolutions in the stem, average pooling before the shortcut's convolution."""
    moved = {name.replace("downsample.1.", "downsample.2.").replace("downsample.0.", "downsample.1.") for name in state}
    assert moved
    deep = {name: value for name, value in state.items() if name != "conv1.weight"}
    value = state["conv1.weight"].flatten()[0]
    return deep | {
        "conv1.0.weight": value.expand(32, 3, 3, 3),
        "conv1.3.weight": value.expand(32, 32, 3, 3),
        "conv1.6.weight": value.expand(64, 32, 3, 3),
        **{f"conv1.{i}.{k}": value.expand(32) for i in (1, 4) for k in ("weight", "bias", "running_mean")},
    }


def with_se(state: State) -> Tree:
    """seresnet50: squeeze-and-excitation in every block."""
    value = state["bn1.weight"][0]
    return state | {"layer1.0.se.fc1.weight": value.expand(16, 256, 1, 1), "layer1.0.se.fc1.bias": value.expand(16)}


def bare(title: str, container: str, archs: tuple[str, ...]) -> Release:
    return Release(
        title=title,
        format="torchvision",
        build=dict,
        place=(),
        key=str,
        source="huggingface/pytorch-image-models: timm/models/resnet.py",
        container=container,
        archs=archs,
        lints=("classifier",),
    )


RELEASES = {
    "timm_training": Release(
        title="timm, training checkpoint with averaged weights",
        format="timm",
        build=trainer,
        place=("state_dict_ema",),
        key=str,
        source=SAVER,
        branch="ema",
        others=("model",),
        archs=("resnet50", "resnet18", "resnext50_32x4d"),
        lints=("classifier",),
        real="a file that timm's CheckpointSaver wrote (random weights)",
    ),
    "timm_training_without_ema": Release(
        title="timm, training checkpoint",
        format="timm",
        build=lambda state: trainer(state, ema=False),
        place=("state_dict",),
        key=str,
        source=SAVER,
        branch="model",
        lints=("classifier",),
    ),
    "timm_compiled": Release(
        title="timm or torchvision, saved from a compiled model",
        format="torchvision",
        build=lambda state: under("_orig_mod.", state),
        place=(),
        key="_orig_mod.{}".format,
        source="huggingface/pytorch-image-models: timm/models/_helpers.py (clean_state_dict)",
        lints=("classifier",),
    ),
    "torchvision_model_ema": Release(
        title="torchvision's reference training with --model-ema",
        format="timm",
        build=model_ema,
        place=("model_ema",),
        key="module.{}".format,
        source="pytorch/vision: references/classification/train.py and utils.py (ExponentialMovingAverage)",
        branch="ema",
        others=("model",),
        archs=("resnet50", "resnet18"),
        lints=("classifier",),
    ),
    "timm_compiled_in_parallel": Release(
        title="timm, training checkpoint of a compiled model",
        format="timm",
        build=lambda state: trainer(under("module._orig_mod.", without_fc(state)), ema=False),
        place=("state_dict",),
        key="module._orig_mod.{}".format,
        source="huggingface/pytorch-image-models: timm/models/_helpers.py (clean_state_dict)",
        branch="model",
    ),
    "timm_bare": bare("timm, .pth", "zip", ("resnet50", "resnet34", "resnet101")),
    "timm_safetensors": bare("timm, .safetensors", "safetensors", ("resnet18", "wide_resnet50_2")),
}

REFUSED = {
    "timm_antialiased": Refusal(
        title="timm resnetaa50, training checkpoint",
        build=lambda state: trainer(state, "resnetaa50"),
        says=("resnetaa50", "anti-aliasing", "resnet50"),
        source="huggingface/pytorch-image-models: timm/models/resnet.py (create_aa)",
        format="timm",
    ),
    "timm_blurred": Refusal(
        title="timm resnetblur50, training checkpoint",
        build=lambda state: trainer(state, "resnetblur50.bt_in1k"),
        says=("resnetblur50", "anti-aliasing"),
        source="huggingface/pytorch-image-models: timm/models/resnet.py (create_aa)",
        format="timm",
    ),
    "timm_50d": Refusal(
        title="timm resnet50d",
        build=deep_stem,
        says=("deep stem", "50d", "supported are"),
        source="huggingface/pytorch-image-models: timm/models/resnet.py",
        format="torchvision",
    ),
    "timm_seresnet": Refusal(
        title="timm seresnet50, training checkpoint",
        build=lambda state: trainer(with_se(state), "seresnet50"),
        says=("SE-ResNet",),
        source="huggingface/pytorch-image-models: timm/models/resnet.py",
        format="timm",
    ),
}
