"""SimCLR v2's released weights, converted by Separius' SimCLRv2-Pytorch (`r50_1x_sk0.pth` and its relatives).

Layout: `{"resnet", "head"}`. In `resnet`, `net.0.` is the stem (0 convolution, 1.0 normalisation), `net.1.` to
`net.4.` are the stages, `blocks.0.` their blocks: `net.0`, `net.2`, `net.4` the convolutions, `net.1.0`, `net.3.0`,
`net.5.0` the normalisations, `projection.shortcut` and `projection.bn.0` the shortcut; `fc.` is the classifier, `head`
the contrastive head. The moving average (`_ema`) is a file of its own (Separius/SimCLRv2-Pytorch: resnet.py,
convert.py). Depth 50, 101 or 152, one or two times as wide; networks with selective kernels (`sk1`, 3× among them) are
recognised and refused.

Pixels are RGB in 0–1 without mean and std (verify.py). The stride sits in the 3×3 convolution. TensorFlow's SAME
padding sits in the max-pooling alone; the strided convolutions pad symmetrically by kernel size, as torch's do
(google-research/simclr: resnet.py, conv2d_fixed_padding).
"""

from __future__ import annotations

import dataclasses
import re

from transfer.checkpoints.declared import Network, Release, prefixed
from transfer.checkpoints.formats.simclr_tonylins import NOTE, UNNORMALISED
from transfer.checkpoints.rules import Extracted, Tree, key_name, weights_under
from transfer.runtime.errors import CheckpointError

_STEM = {"0.0.": "conv1.", "0.1.0.": "bn1."}
_BLOCK = {
    "projection.shortcut.": "downsample.0.",
    "projection.bn.0.": "downsample.1.",
    **{f"net.{2 * index}.": f"conv{index + 1}." for index in range(3)},
    **{f"net.{2 * index + 1}.0.": f"bn{index + 1}." for index in range(3)},
}


def torchvision_name(name: str) -> str | None:
    """`2.blocks.0.net.3.0.bias` → `layer2.0.bn2.bias`; None for a name of another kind. `net.` is cut off before."""
    block = re.match(r"([1-4])\.blocks\.(\d+)\.", name)
    start = f"layer{block.group(1)}.{int(block.group(2))}." if block else ""
    rest = name[block.end() :] if block else name
    for theirs, ours in (_BLOCK if block else _STEM).items():
        if rest.startswith(theirs):
            return start + ours + rest.removeprefix(theirs)
    return None


RELEASE = Release(
    name="simclr_v2",
    title="SimCLR v2, converted by Separius' SimCLRv2-Pytorch",
    networks={"only": Network("net.")},
    heads={"fc.": "classifier, behind the backbone", "head": "contrastive head, behind the backbone"},
    keys=("resnet", None),
    outer=("",),
    markers=("1.blocks.",),
    rename=torchvision_name,
    input=UNNORMALISED,
    same_padding=True,
    notes=(NOTE,),
)
_PLAIN = prefixed(RELEASE)


def read(tree: Tree, branch: str | None) -> Extracted:
    """As declared, unless the network has selective kernels."""
    weights = weights_under(tree, "resnet") or tree
    if any(re.match(r"net\.[1-4]\.blocks\.\d+\.net\.\d\.main_conv\.", key_name(name)) for name in weights):
        raise CheckpointError(
            "has selective kernels and a deep stem (SimCLR v2's sk1), which no detection engine builds",
            todo="convert one of the checkpoints without them: r50_1x_sk0, r50_2x_sk0, r101_1x_sk0, r101_2x_sk0, "
            "r152_1x_sk0 or r152_2x_sk0",
        )
    return _PLAIN.read(tree, branch)


FORMAT = dataclasses.replace(_PLAIN, read=read)
