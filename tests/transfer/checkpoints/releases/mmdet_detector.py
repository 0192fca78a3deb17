"""Detectors that MMDetection trained."""

from collections.abc import Callable

import torch
from checkpoint_files import State, Tree, filled, training_state, under, without_fc

from releases import Release
from releases.detectron2_detector import both
from transfer.checkpoints.backbone import InputSpec

CONFIG = """model = dict(
    backbone=dict(depth=50, num_stages=4, style='{style}', type='ResNet'),
    data_preprocessor=dict(
        bgr_to_rgb={rgb},
        mean=[
            {mean},
        ],
        pad_size_divisor=32,
        std=[
            {std},
        ],
        type='DetDataPreprocessor'))
"""
SOURCE = "open-mmlab/mmdetection: mmdet/models/detectors/two_stage.py"


def c4_name(name: str) -> str:
    return f"{'roi_head.shared_head' if name.startswith('layer4') else 'backbone'}.{name}"


def rpn(channels: int, anchors: int) -> State:
    head = both("rpn_conv", channels, channels, 3, 3) | both("rpn_cls", anchors, channels, 1, 1)
    return under("rpn_head.", head | both("rpn_reg", 4 * anchors, channels, 1, 1))


def box_head(width: int) -> State:
    return under("roi_head.bbox_head.", both("fc_cls", 81, width) | both("fc_reg", 320, width))


def fpn(state: State) -> State:
    found = under("backbone.", without_fc(state)) | rpn(256, 3) | box_head(1024)
    for level, channels in enumerate((256, 512, 1024, 2048)):
        found |= both(f"neck.lateral_convs.{level}.conv", 256, channels, 1, 1)
        found |= both(f"neck.fpn_convs.{level}.conv", 256, 256, 3, 3)
    fcs = both("shared_fcs.0", 1024, 12544) | both("shared_fcs.1", 1024, 1024)
    return found | under("roi_head.bbox_head.", fcs)


def c4(state: State) -> State:
    norm = {name: filled(2048) for name in ("weight", "bias", "running_mean", "running_var")}
    norm["num_batches_tracked"] = torch.tensor(24000)
    found = {c4_name(name): value for name, value in without_fc(state).items()} | rpn(1024, 15) | box_head(2048)
    return found | under("roi_head.shared_head.norm.", norm)


def saved(weights: State, config: str, key: str = "cfg") -> Tree:
    versions = {"mmengine_version": "0.10.4"} if key == "cfg" else {"mmdet_version": "2.28.0", "mmcv_version": "1.7.1"}
    meta = {"epoch": 12, "iter": 87960, key: config, "seed": 0, "dataset_meta": {"CLASSES": ("person",)}, **versions}
    return {"meta": meta, "state_dict": weights, "optimizer": training_state(weights)["optimizer"]}


def modern(state: State) -> Tree:
    config = CONFIG.format(style="pytorch", rgb=True, mean="123.675, 116.28, 103.53", std="58.395, 57.12, 57.375")
    return saved(fpn(state), config)


def caffe(state: State) -> Tree:
    return saved(c4(state), CONFIG.format(style="caffe", rgb=False, mean="103.53, 116.28, 123.675", std="1, 1, 1"))


def older(state: State) -> Tree:
    norm = "img_norm_cfg = dict(\n    mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)\n"
    return saved(fpn(state), f"{norm}model = dict(backbone=dict(type='ResNet', depth=50, style='pytorch'))", "config")


def _release(title: str, build: Callable[[State], Tree], **more) -> Release:
    facts = {"place": ("state_dict",), "key": "backbone.{}".format, "source": SOURCE}
    return Release(title=title, format="mmdet_detector", build=build, **facts | more)


RGB = InputSpec("RGB", 255.0, (123.675, 116.28, 103.53), (58.395, 57.12, 57.375))

RELEASES = {
    "mmdet_detector_fpn": _release("MMDetection detector with FPN", modern, input=RGB, archs=("resnet50", "resnet101")),
    "mmdet_detector_2x": _release("MMDetection 2.x detector with FPN", older, input=RGB, container="legacy"),
    "mmdet_detector_c4": _release(
        "MMDetection detector on C4, Caffe's style",
        caffe,
        key=c4_name,
        input=InputSpec("BGR", 255.0, (103.53, 116.28, 123.675), (1.0, 1.0, 1.0)),
        stride_in_1x1=True,
        lints=("bgr", "normalisation", "stride-in-1x1"),
    ),
    "mmdet_detector_bare": _release(
        "MMDetection detector, weights alone",
        fpn,
        place=(),
        container="safetensors",
        lints=("assumed-input", "assumed-stride"),
    ),
}
