"""The kernels that MMDetection's detectors need, without compiling mmcv.

mmcv keeps its kernels in a compiled module `mmcv._ext`; without it `mmcv.ops` cannot even be imported. torchvision
ships the same non-maximum suppression and RoIAlign (both libraries took them from Detectron2), so a module of that
name which hands these calls on to torchvision is enough, with the focal loss that mmdet calls on GPUs written in
PyTorch. It steps aside when the compiled module is installed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import NoReturn

import torch
import torch.nn.functional as F
import torchvision  # registers torch.ops.torchvision

from transfer.runtime.errors import EngineError

EXTENSION = "mmcv._ext"
_AVERAGE = 1  # how mmcv numbers its pool modes: 0 max, 1 average


def install() -> bool:
    """Register the stand-in as `mmcv._ext` unless the compiled module exists. Must run before `mmdet` is imported.

    Returns:
        True if the stand-in is in place, False if mmcv's own kernels are.

    Raises:
        ImportError: mmcv itself is not installed.
    """
    if EXTENSION in sys.modules:
        return isinstance(sys.modules[EXTENSION], TorchvisionKernels)
    if find_spec(EXTENSION) is not None:
        return False
    sys.modules[EXTENSION] = TorchvisionKernels()
    return True


class TorchvisionKernels(ModuleType):
    """A module with mmcv's names and signatures; every operation it does not know refuses to run, by name."""

    def __init__(self) -> None:
        super().__init__(EXTENSION, "torchvision's kernels under mmcv's names")
        # Python asks sys.modules entries for their spec whenever somebody looks the module up.
        self.__spec__ = ModuleSpec(EXTENSION, loader=None, origin="detection.engines.mmcv_ops")
        self.nms = nms
        self.roi_align_forward = roi_align_forward
        self.roi_align_backward = roi_align_backward
        self.sigmoid_focal_loss_forward = sigmoid_focal_loss_forward
        self.sigmoid_focal_loss_backward = sigmoid_focal_loss_backward

    def __getattr__(self, name: str) -> Callable[..., NoReturn]:
        # mmcv.ops checks at import time that some 200 names exist, so they must, and fail when called.
        if name.startswith("__"):
            raise AttributeError(name)

        def refuse(*_: object, **__: object) -> NoReturn:
            raise _unsupported(name)

        return refuse


def nms(bboxes: torch.Tensor, scores: torch.Tensor, iou_threshold: float, offset: int) -> torch.Tensor:
    """Indices of the boxes kept, best first, int64 [k].

    Args:
        bboxes: [n, 4], (x1, y1, x2, y2).
        scores: [n].
        iou_threshold: a box goes if it overlaps a better one by more than this.
        offset: 0, or 1 for boxes whose width is x2 − x1 + 1.
    """
    if offset:
        # Growing every box by one pixel to the right and down gives the widths and intersections of that convention.
        bboxes = bboxes + bboxes.new_tensor([0.0, 0.0, 1.0, 1.0])
    # In mixed precision the two may be of different types.
    kept: torch.Tensor = torchvision.ops.nms(bboxes, scores.to(bboxes.dtype), iou_threshold)
    return kept


def roi_align_forward(
    input: torch.Tensor,
    rois: torch.Tensor,
    output: torch.Tensor,
    argmax_y: torch.Tensor,
    argmax_x: torch.Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Fill `output` [k, C, aligned_height, aligned_width] from `input` [N, C, H, W] and `rois` [k, 5].

    A region is (index into the batch, x1, y1, x2, y2) in pixels of the image; `spatial_scale` takes them to `input`.
    `argmax_y` and `argmax_x` belong to max pooling and are left alone.
    """
    _average_only(pool_mode)
    input, rois = _full(input), _full(rois)
    pooled = torch.ops.torchvision.roi_align(
        input, rois, spatial_scale, aligned_height, aligned_width, sampling_ratio, aligned
    )
    output.copy_(pooled)


def roi_align_backward(
    grad_output: torch.Tensor,
    rois: torch.Tensor,
    argmax_y: torch.Tensor,
    argmax_x: torch.Tensor,
    grad_input: torch.Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Fill `grad_input` [N, C, H, W] with the gradient of what `roi_align_forward` computes."""
    _average_only(pool_mode)
    gradient = torch.ops.torchvision._roi_align_backward(
        _full(grad_output),
        _full(rois),
        spatial_scale,
        aligned_height,
        aligned_width,
        *grad_input.shape,
        sampling_ratio,
        aligned,
    )
    grad_input.copy_(gradient)


def sigmoid_focal_loss_forward(
    input: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor,
    output: torch.Tensor,
    gamma: float,
    alpha: float,
) -> None:
    """Fill `output` [n, K] with the focal loss of each logit (Lin et al., arXiv 1708.02002, equation 5).

    Args:
        input: logits [n, K].
        target: int64 [n], the class, or K for the background: then all K are negative.
        weight: of classes; must be empty, mmdet gives none.
        output: is overwritten.
        gamma: exponent of the modulating factor.
        alpha: weight of positives; negatives have 1 − alpha.
    """
    logits, positive = _focal_inputs(input, target, weight)
    p = logits.sigmoid()
    losses = torch.where(
        positive,
        -alpha * (1 - p) ** gamma * F.logsigmoid(logits),
        -(1 - alpha) * p**gamma * F.logsigmoid(-logits),
    )
    output.copy_(losses)


def sigmoid_focal_loss_backward(
    input: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor,
    grad_input: torch.Tensor,
    gamma: float,
    alpha: float,
) -> None:
    """Fill `grad_input` [n, K] with the derivative of each loss by its logit; see `sigmoid_focal_loss_forward`."""
    logits, positive = _focal_inputs(input, target, weight)
    p = logits.sigmoid()
    derivatives = torch.where(
        positive,
        -alpha * (1 - p) ** gamma * (1 - p - gamma * p * F.logsigmoid(logits)),
        (1 - alpha) * p**gamma * (p - gamma * (1 - p) * F.logsigmoid(-logits)),
    )
    grad_input.copy_(derivatives)


def _focal_inputs(input: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits, and which of them should be high, bool [n, K]."""
    if weight.numel():
        raise _unsupported("sigmoid_focal_loss with weights of classes")
    return _full(input), target[:, None] == torch.arange(input.shape[1], device=target.device)


def _full(values: torch.Tensor) -> torch.Tensor:
    """Half precision becomes single."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def _average_only(pool_mode: int) -> None:
    if pool_mode != _AVERAGE:
        raise _unsupported("roi_align with pool_mode='max'")


def _unsupported(operation: str) -> EngineError:
    return EngineError(
        f"mmcv's {operation} needs mmcv with compiled kernels",
        found="mmcv without kernels; there are stand-ins for nms, average roi_align and sigmoid_focal_loss only",
        todo="build mmcv from source with MMCV_WITH_OPS=1 (about half an hour), "
        "or use a detector that does without this operation",
    )
