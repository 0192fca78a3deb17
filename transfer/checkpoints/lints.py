"""What explains the classic mistakes, said of a checkpoint before anything is trained on it.

A lint never stops anything: what cannot be right is refused elsewhere. It goes into `inspect`, into the record and
from there into the footnotes of tables.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping

import torch

from transfer.checkpoints.architectures import STAGES
from transfer.checkpoints.backbone import IMAGENET_MEAN, IMAGENET_STD, Backbone, InputSpec, Lint

# What a name may say of a file that holds nothing but tensors.
_TOLD_BY_NAME: tuple[tuple[str, str], ...] = (
    (
        r"resnetaa|resnetblur",
        "an anti-aliased ResNet has the names and shapes of the plain one, its strides in pooling",
    ),
    (r"resnet\d+[cdst](?![a-z0-9])", "a ResNet-C or -D differs from the plain one in stem and shortcuts"),
    (r"caffe|msra|detectron", "Caffe's ResNets take BGR in 0–255 and have their stride in the first 1×1 convolution"),
    (r"bgr", "a network trained on BGR has the names and shapes of one trained on RGB"),
    (
        r"simclr",
        "SimCLR's networks were trained on pixels in 0–1 without mean and std; --format simclr_tonylins says so",
    ),
    (
        r"swav|deepcluster|vicregl|alpha0?[.p]\d",
        "the authors' code of SwAV, DeepCluster v2 and VICRegL divides red by .228, not .229",
    ),
    (r"(?<![a-z])ra4(?![a-z0-9])", "timm's ResNets of the recipe ra4 were trained with the mean .5 and the std .5"),
    (
        r"(?<![a-z])tf(?![a-z])|keras|jax|haiku|flax",
        "TensorFlow's and JAX's networks pad strided layers differently (SAME)",
    ),
)


def lints_of(backbone: Backbone) -> tuple[Lint, ...]:
    """Everything that the tensors and facts of a complete backbone give reason to say."""
    return (
        *_input(backbone.input),
        *_geometry(backbone),
        *_classifier(backbone),
        *_statistics(backbone.state),
        *_initialisation(backbone.state),
        *_constant(backbone.state),
    )


def _input(spec: InputSpec) -> Iterator[Lint]:
    if spec.channels == "BGR":
        yield Lint("bgr", "the first convolution takes blue, green, red (Caffe's order); engines are told so")
    usual_mean, usual_std = InputSpec("RGB", 1.0, IMAGENET_MEAN, IMAGENET_STD).in_255()
    order = -1 if spec.channels == "BGR" else 1
    mean, std = spec.in_255()
    wanted = usual_mean[::order] + usual_std[::order]
    if any(abs(ours - theirs) > 0.05 for ours, theirs in zip(mean + std, wanted, strict=True)):
        shown = f"mean {' '.join(f'{v:g}' for v in mean)}, std {' '.join(f'{v:g}' for v in std)} on 0–255"
        yield Lint(
            "normalisation",
            f"pixels are not normalised with ImageNet's usual mean and std but with {shown}; a program that assumes "
            "the usual ones feeds this network something it has never seen",
        )


def _geometry(backbone: Backbone) -> Iterator[Lint]:
    if backbone.stride_in_1x1:
        yield Lint(
            "stride-in-1x1",
            "a bottleneck's stride sits in its first 1×1 convolution (Caffe's ResNet); loaded into torchvision's, the "
            "weights fit and compute something else",
        )
    if backbone.same_padding:
        yield Lint(
            "same-padding",
            "trained with SAME padding (TensorFlow, Haiku), which no engine's ResNet has: the weights arrive, but "
            "strided layers sample a grid shifted by up to a pixel, and numbers may fall below its authors'",
        )


def _classifier(backbone: Backbone) -> Iterator[Lint]:
    for group in backbone.dropped:
        if group.reason.startswith("classifier"):
            yield Lint(
                "classifier",
                f"a classifier came with the backbone ({', '.join(group.names[:2])}): unless its classes are clusters "
                "or words, labels were used, to train the whole network or only what lies on top of it",
            )


def _statistics(state: Mapping[str, torch.Tensor]) -> Iterator[Lint]:
    """Batch norms that have never seen a batch, or whose statistics were folded into scale and shift."""
    # 2e-5: affine layers are stored with the variance 1 − eps, so that eps cancels
    untouched = all(
        bool(((tensor - float(name.endswith("var"))).abs() < 2e-5).all())
        for name, tensor in state.items()
        if name.endswith(("running_mean", "running_var"))
    )
    if not untouched:
        return
    if _fresh_norms(state, ""):
        yield Lint(
            "statistics", "all batch norms have mean 0, variance 1, scale 1 and shift 0: an untrained or stripped file"
        )
    else:
        yield Lint(
            "statistics",
            "all batch norms have mean 0 and variance 1 beside trained scales: their statistics were folded in "
            "(Caffe's affine layers) or lost; protocols that train batch norm start from the wrong statistics",
        )


def _fresh_norms(state: Mapping[str, torch.Tensor], start: str) -> bool:
    """True if every norm under `start` has a shift of exactly 0 and a scale of exactly 1 (or 0: zero-init residual)."""
    norms = [name.removesuffix("running_var") for name in state if name.endswith("running_var")]
    return all(
        bool((state[f"{norm}bias"] == 0).all())
        and (bool((state[f"{norm}weight"] == 1).all()) or bool((state[f"{norm}weight"] == 0).all()))
        for norm in norms
        if norm.startswith(start)
    )


def _initialisation(state: Mapping[str, torch.Tensor]) -> Iterator[Lint]:
    """Stages whose weights look drawn by torchvision's constructor: Kaiming-normal by fan-out, norms at 1 and 0."""
    parts = {"conv1": ["conv1.weight"], **{stage: _convolutions(state, f"{stage}.") for stage in STAGES}}
    fresh = [
        part
        for part, names in parts.items()
        if _fresh_norms(state, "bn1." if part == "conv1" else f"{part}.")
        and all(_kaiming_normal(state[name]) for name in names)
    ]
    if fresh:
        what = "the whole network" if len(fresh) == len(parts) else " and ".join(fresh)
        yield Lint(
            "initialisation", f"looks like torchvision's random initialisation, not like trained weights: {what}"
        )


def _convolutions(state: Mapping[str, torch.Tensor], start: str) -> list[str]:
    return [name for name, tensor in state.items() if name.startswith(start) and tensor.ndim == 4]


def _kaiming_normal(weight: torch.Tensor) -> bool:
    """True if mean and variance are those of N(0, 2 / fan_out) within five standard errors (torchvision: resnet.py)."""
    count, fan_out = weight.numel(), weight.shape[0] * weight.shape[2] * weight.shape[3]
    variance = 2 / fan_out
    mean_off = abs(float(weight.mean())) / math.sqrt(variance / count)
    variance_off = abs(float(weight.var()) / variance - 1) / math.sqrt(2 / count)
    return mean_off < 5 and variance_off < 5


def _constant(state: Mapping[str, torch.Tensor]) -> Iterator[Lint]:
    convolutions = ((name, tensor.aminmax()) for name, tensor in state.items() if tensor.ndim == 4)
    names = [name for name, (low, high) in convolutions if low == high]
    if names:
        shown = ", ".join(names[:3]) + (" …" if len(names) > 3 else "")
        yield Lint("constant", f"{len(names)} convolutions hold one and the same number everywhere: {shown}")


def told_by_name(file: str) -> Iterator[Lint]:
    """What the name of a file says that holds nothing but tensors; where its format knows more, this is not asked."""
    for pattern, meaning in _TOLD_BY_NAME:
        if found := re.search(pattern, file.lower()):
            yield Lint(
                "file-name", f"the name says {found.group(0)!r} and the file itself cannot say or deny it: {meaning}"
            )


def compare_channels(backbone: Backbone, reference: Backbone) -> tuple[Lint, ...]:
    """What the first convolution says next to that of a relative: whether its colour planes were reversed.

    Filters are compared one by one by their cosine, with the planes as they are and reversed. That decides for files of
    the same network (a conversion, a fine-tuned copy). Filters of networks that were trained apart come in another
    order and are no relatives; then nothing is said but that.

    Args:
        backbone: the file in question.
        reference: another file whose channel order is known.
    """
    ours, theirs = backbone.state["conv1.weight"], reference.state["conv1.weight"]
    if ours.shape != theirs.shape:
        return (Lint("channels", f"conv1 is {tuple(ours.shape)}, the reference's {tuple(theirs.shape)}: no relative"),)
    straight, reversed_ = (_mean_cosine(planes, theirs) for planes in (ours, ours.flip(1)))
    numbers = f"mean cosine of the filters {straight:.2f} as they are, {reversed_:.2f} with the planes reversed"
    if max(straight, reversed_) < 0.5:
        return (Lint("channels", f"conv1 is no relative of the reference's ({numbers}): its order cannot be told"),)
    alike = straight >= reversed_
    if alike == (backbone.input.channels == reference.input.channels):
        return ()
    order = reference.input.channels if alike else reference.input.channels[::-1]
    return (
        Lint(
            "channels",
            f"conv1 looks {order} next to the reference ({numbers}), and this file is read as "
            f"{backbone.input.channels}: red and blue are probably exchanged",
        ),
    )


def _mean_cosine(first: torch.Tensor, second: torch.Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(first.flatten(1), second.flatten(1)).mean())
