"""What explains the classic mistakes, said of a checkpoint before anything is trained on it.

A lint never stops anything: what cannot be right is refused elsewhere. It goes into `inspect`, into the record and
from there into the footnotes of tables.
"""

from __future__ import annotations

from collections.abc import Iterator

from transfer.backbone import IMAGENET_MEAN, IMAGENET_STD, Backbone, InputSpec, Lint


def lints_of(backbone: Backbone) -> tuple[Lint, ...]:
    """Everything worth saying about a complete backbone, beside what its format has said already."""
    found = [*_input(backbone.input), *_geometry(backbone), *_classifier(backbone)]
    return tuple(found)


def _input(spec: InputSpec) -> Iterator[Lint]:
    if spec.channels == "BGR":
        yield Lint("bgr", "the first convolution takes blue, green, red (Caffe's order); engines are told so")
    usual = InputSpec(spec.channels, 1.0, IMAGENET_MEAN, IMAGENET_STD).in_255()
    if spec.channels == "BGR":
        usual = usual[0][::-1], usual[1][::-1]
    mean, std = spec.in_255()
    if any(abs(ours - theirs) > 0.05 for ours, theirs in zip(mean + std, usual[0] + usual[1], strict=True)):
        shown = f"mean {' '.join(f'{v:g}' for v in mean)}, std {' '.join(f'{v:g}' for v in std)} on 0–255"
        yield Lint(
            "normalisation",
            f"pixels are not normalised with ImageNet's usual mean and std but with {shown}; a program "
            "that assumes the usual ones feeds this network something it has never seen",
        )


def _geometry(backbone: Backbone) -> Iterator[Lint]:
    if backbone.stride_in_1x1:
        yield Lint("stride-in-1x1", "a bottleneck's stride sits in its first 1×1 convolution (Caffe's ResNet)")
    if backbone.same_padding:
        yield Lint(
            "same-padding",
            "trained with TensorFlow's SAME padding, which no engine's ResNet has: the weights arrive, but strided "
            "layers sample a grid shifted by up to a pixel, and numbers may fall below its authors'",
        )


def _classifier(backbone: Backbone) -> Iterator[Lint]:
    for group in backbone.dropped:
        if group.reason.startswith("classifier"):
            yield Lint(
                "classifier",
                f"a classifier came with the backbone ({', '.join(group.names[:2])}): labels were used, to train the "
                "whole network or only what lies on top of it",
            )
