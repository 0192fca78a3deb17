"""What explains the classic mistakes, said of a checkpoint before anything is trained on it.

A lint never stops anything: what cannot be right is refused elsewhere. It goes into `inspect`, into the record and
from there into the footnotes of tables.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import torch

from transfer.checkpoints.backbone import IMAGENET_MEAN, IMAGENET_STD, Backbone, InputSpec, Lint
from transfer.checkpoints.families import family_of

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

# What it may say of a vision transformer: (in the name, architectures that it is said of, meaning).
_TOLD_OF_VITS: tuple[tuple[str, str, str], ...] = (
    (r"augreg|beit", "vit", "the weights called augreg and BEiT's were trained with the mean .5 and the std .5"),
    (
        r"(?<![a-z])msn|i-?jepa",
        "vit",
        "timm's conversions of MSN and I-JEPA and transformers' of I-JEPA hold the encoder that the gradient trains; "
        "their authors evaluate the target encoder, which their own files hold, too",
    ),
    (
        r"ibot.*22k|22k.*ibot",
        "vit",
        "of iBOT's ImageNet-22K models its authors evaluate the student, of all others the teacher",
    ),
    (
        r"(?<![a-z])mae.*(?:fine-?_?tun|(?<![a-z])ft(?![a-z]))|fine-?_?tun.*(?:mae|vit)",
        "vit",
        "a fine-tuned network was trained with labels and is not what pretraining made",
    ),
    (
        r"moco",
        r"vit_small_(?!.*\.h12)",
        "MoCo v3's ViT-S has 12 heads and this file is read with 6: the shapes are the same and another function is "
        "computed; --format moco_v3 says so",
    ),
)


def lints_of(backbone: Backbone) -> tuple[Lint, ...]:
    """Everything that the tensors and facts of a complete backbone give reason to say."""
    return (
        *_input(backbone.input),
        *_geometry(backbone),
        *_classifier(backbone),
        *(Lint(code, text) for code, text in family_of(backbone.arch).lints(backbone.arch, backbone.state)),
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


def _constant(state: Mapping[str, torch.Tensor]) -> Iterator[Lint]:
    convolutions = ((name, tensor.aminmax()) for name, tensor in state.items() if tensor.ndim == 4)
    names = [name for name, (low, high) in convolutions if low == high]
    if names:
        shown = ", ".join(names[:3]) + (" …" if len(names) > 3 else "")
        yield Lint("constant", f"{len(names)} convolutions hold one and the same number everywhere: {shown}")


def told_by_name(file: str, arch: str) -> Iterator[Lint]:
    """What the name of a file says that holds nothing but tensors; where its format knows more, this is not asked."""
    of_all = [(pattern, "", meaning) for pattern, meaning in _TOLD_BY_NAME]
    for pattern, archs, meaning in (*of_all, *_TOLD_OF_VITS):
        if re.match(archs, arch) and (found := re.search(pattern, file.lower())):
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
    stem, other = family_of(backbone.arch).stem, family_of(reference.arch).stem
    ours, theirs, name = backbone.state[stem], reference.state[other], stem.removesuffix(".weight")
    if ours.shape != theirs.shape:
        return (Lint("channels", f"{name} is {tuple(ours.shape)}, the reference's {tuple(theirs.shape)}: no relative"),)
    straight, reversed_ = (_mean_cosine(planes, theirs) for planes in (ours, ours.flip(1)))
    numbers = f"mean cosine of the filters {straight:.2f} as they are, {reversed_:.2f} with the planes reversed"
    if max(straight, reversed_) < 0.5:
        return (Lint("channels", f"{name} is no relative of the reference's ({numbers}): its order cannot be told"),)
    alike = straight >= reversed_
    if alike == (backbone.input.channels == reference.input.channels):
        return ()
    order = reference.input.channels if alike else reference.input.channels[::-1]
    return (
        Lint(
            "channels",
            f"{name} looks {order} next to the reference ({numbers}), and this file is read as "
            f"{backbone.input.channels}: red and blue are probably exchanged",
        ),
    )


def _mean_cosine(first: torch.Tensor, second: torch.Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(first.flatten(1), second.flatten(1)).mean())
