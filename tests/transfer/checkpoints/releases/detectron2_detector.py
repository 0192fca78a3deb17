"""Detectron2's own copies of torchvision's models, and detectors that it trained."""

from collections.abc import Callable

import torch
from checkpoint_files import State, Tree, filled, training_state, under, without_fc

from releases import Release
from releases.caffe2 import uncounted
from releases.detectron2 import name_in_detectron2
from transfer.checkpoints.backbone import InputSpec

BGR = torch.tensor([103.53, 116.28, 123.675])[:, None, None]
RGB = torch.tensor([123.675, 116.28, 103.53])[:, None, None]
RGB_STD = torch.tensor([58.395, 57.12, 57.375])[:, None, None]
SOURCE = "facebookresearch/detectron2: detectron2/modeling, detectron2/checkpoint/detection_checkpoint.py"


def fpn_name(name: str) -> str:
    return f"backbone.bottom_up.{name_in_detectron2(name)}"


def c4_name(name: str) -> str:
    prefix = "roi_heads" if name.startswith("layer4") else "backbone"
    return f"{prefix}.{name_in_detectron2(name)}"


def both(name: str, *shape: int) -> State:
    return {f"{name}.weight": filled(*shape), f"{name}.bias": filled(shape[0])}


def rpn(channels: int, anchors: int) -> State:
    head = both("rpn_head.conv", channels, channels, 3, 3) | both("rpn_head.objectness_logits", anchors, channels, 1, 1)
    return under("proposal_generator.", head | both("rpn_head.anchor_deltas", 4 * anchors, channels, 1, 1))


def box_predictor(width: int) -> State:
    return under("roi_heads.box_predictor.", both("cls_score", 81, width) | both("bbox_pred", 320, width))


def fpn_detector(state: State) -> State:
    """Mask R-CNN with FPN."""
    found = {fpn_name(name): value for name, value in uncounted(state).items()}
    for level, channels in enumerate((256, 512, 1024, 2048), start=2):
        found |= both(f"backbone.fpn_lateral{level}", 256, channels, 1, 1)
        found |= both(f"backbone.fpn_output{level}", 256, 256, 3, 3)
    found |= rpn(256, 3) | both("roi_heads.box_head.fc1", 1024, 12544) | both("roi_heads.box_head.fc2", 1024, 1024)
    for index in range(1, 5):
        found |= both(f"roi_heads.mask_head.mask_fcn{index}", 256, 256, 3, 3)
    mask = {"roi_heads.mask_head.deconv.weight": filled(256, 256, 2, 2), "roi_heads.mask_head.deconv.bias": filled(256)}
    return found | box_predictor(1024) | mask | both("roi_heads.mask_head.predictor", 80, 256, 1, 1)


def c4_detector(state: State) -> State:
    """Faster R-CNN on res4, with the fifth stage in its head."""
    return {c4_name(name): value for name, value in state.items()} | rpn(1024, 15) | box_predictor(2048)


def zoo(state: State) -> Tree:
    """As in the model zoo: arrays, no word about pixels, anchors of an old version."""
    anchors = under(
        "proposal_generator.anchor_generator.cell_anchors.", {str(level): filled(3, 4) for level in range(5)}
    )
    model = {name: value.numpy() for name, value in (fpn_detector(state) | anchors).items()}
    return {"model": model, "__author__": "Detectron2 Model Zoo"}


def trained(model: Callable[[State], State], mean: torch.Tensor, std: torch.Tensor) -> Callable[[State], Tree]:
    """model_final.pth of the time when pixel_mean was saved."""

    def build(state: State) -> Tree:
        loop = {"optimizer": training_state(state)["optimizer"], "scheduler": {"last_epoch": 90000}, "iteration": 89999}
        return {"model": model(state) | {"pixel_mean": mean, "pixel_std": std}, **loop}

    return build


def finetuned(state: State) -> State:
    """MoCo's C4 detector: trained batch norms with counters, and one more behind the fifth stage."""
    norm = {name: filled(2048) for name in ("weight", "bias", "running_mean", "running_var")}
    norm["num_batches_tracked"] = torch.tensor(24000)
    return c4_detector(without_fc(state)) | under("roi_heads.res5.norm.", norm)


def bare(state: State) -> State:
    """The latest model_final.pth says nothing of pixels; here its `model` alone."""
    return c4_detector(without_fc(state))


def _detector(title: str, build: Callable[[State], Tree], key: Callable[[str], str], **more) -> Release:
    facts = {"place": ("model",), "source": SOURCE, "counters": False}
    lints = ("assumed-stride", *more.pop("lints", ()))
    return Release(title=title, format="detectron2_detector", build=build, key=key, lints=lints, **facts | more)


MSRA = {
    "input": InputSpec("BGR", 255.0, (103.53, 116.28, 123.675), (1.0, 1.0, 1.0)),
    "stride_in_1x1": True,
    "lints": ("bgr", "normalisation", "stride-in-1x1"),
}

RELEASES = {
    "detectron2_torchvision": Release(
        title="Detectron2, torchvision's R-50.pkl",
        format="detectron2",
        build=lambda state: {
            "model": {name_in_detectron2(name): value.numpy() for name, value in state.items()},
            "__author__": "torchvision",
            "matching_heuristics": True,
        },
        place=("model",),
        key=name_in_detectron2,
        source="facebookresearch/detectron2: tools/convert-torchvision-to-d2.py",
        container="pickle",
        archs=("resnet50", "resnet18"),
        lints=("classifier",),
    ),
    "detectron2_detector_zoo": _detector(
        "Detectron2 detector with FPN, model zoo",
        zoo,
        fpn_name,
        container="pickle",
        **MSRA | {"lints": (*MSRA["lints"], "assumed-input")},
    ),
    "detectron2_detector_fpn": _detector(
        "Detectron2 detector with FPN",
        trained(fpn_detector, BGR, torch.ones(3, 1, 1)),
        fpn_name,
        archs=("resnet50", "resnet101"),
        real="layout, equal to a model that Detectron2 builds",
        **MSRA,
    ),
    "detectron2_detector_c4": _detector(
        "Detectron2 detector on C4",
        trained(finetuned, RGB, RGB_STD),
        c4_name,
        counters=True,
        input=InputSpec("RGB", 255.0, (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
        real="layout, equal to a model that Detectron2 builds",
    ),
    "detectron2_detector_bare": _detector(
        "Detectron2 detector on C4, weights alone",
        bare,
        c4_name,
        counters=True,
        place=(),
        container="safetensors",
        lints=("assumed-input",),
    ),
}
