"""ConvNeXt under its authors' names: first and second version, FCMAE's pretraining, and DINOv3's ConvNeXts.

Layouts:

- `{"model"}`, in one's own runs with `model_ema`, `optimizer`, `epoch`, `scaler`, `args` (facebookresearch/ConvNeXt:
  models/convnext.py, utils.py: save_model; facebookresearch/ConvNeXt-V2: models/convnextv2.py). They evaluate the
  model and, with `--model_ema_eval`, its average, too (main.py); the released `*_ema.pth` hold an average as `model`.
  `downsample_layers.0.` is the stem, `stages.S.B.` a block; `norm.` lies behind the average of the map, `head.` is the
  classifier. What was trained with labels has both; what FCMAE released (`convnextv2_*_1k_224_fcmae.pt`) has neither,
  nor do SparK's backbones (`convnextS_1kpretrained_official_style.pth`, flat; keyu-tian/SparK: pretrain/main.py);
- FCMAE's own runs: `{"model"}` with a decoder (models/fcmae.py) and `encoder.` under the names and shapes of sparse
  layers (models/convnextv2_sparse.py; models/utils.py: MinkowskiLayerNorm). A kernel is [places, in, out] there, its
  places column by column (utils.py, remap_checkpoint_keys), the one of a depthwise convolution [places, channels];
- DINOv3 (facebookresearch/dinov3: dinov3/models/convnext.py): flat; `norms.3.` and `norm.` are one tensor under two
  names, and the feature that its authors evaluate is the average behind it.

Response norms are [1, 1, 1, C] in the file ([1, C] of a sparse one) and [C] here, and the MLPs of the small second
versions matrices in the file and 1×1 convolutions here, as timm has both.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping

import torch

from transfer.checkpoints.declared import Network, Release, one_of, prefixed
from transfer.checkpoints.families import families
from transfer.checkpoints.rules import Extracted, Format, Tree, demand_equal, weights_under
from transfer.runtime.errors import CheckpointError

MARKERS = ("downsample_layers.",)
_CLASSIFIER = {"head.": "classifier, behind the backbone"}
_DECODER = {
    **dict.fromkeys(("proj.", "decoder.", "pred."), "decoder, which reconstructs pixels"),
    "mask_token": "stands for masked patches in the decoder",
}
# Beginnings of names, then parts of them: theirs → timm's
_PLACES = (
    (re.compile(r"^downsample_layers\.0\.(\d)\."), r"stem.\1."),
    (re.compile(r"^downsample_layers\.([1-3])\.(\d)\."), r"stages.\1.downsample.\2."),
    (re.compile(r"^stages\.(\d)\.(\d+)\.(?=\D)"), r"stages.\1.blocks.\2."),
    (re.compile(r"^norm\."), "head.norm."),
)
_PARTS = {
    ".dwconv.": ".conv_dw.",
    ".pwconv1.": ".mlp.fc1.",
    ".pwconv2.": ".mlp.fc2.",
    ".grn.gamma": ".mlp.grn.weight",
    ".grn.beta": ".mlp.grn.bias",
}
_SPARSE = {".ln.": ".", ".linear.": ".", ".kernel": ".weight"}


def timm_name(name: str) -> str:
    """`stages.0.1.pwconv1.bias` → `stages.0.blocks.1.mlp.fc1.bias`."""
    for pattern, place in _PLACES:
        name = pattern.sub(place, name)
    for theirs, ours in _PARTS.items():
        name = name.replace(theirs, ours)
    return name


def sparse_name(name: str) -> str:
    """`stages.0.1.dwconv.kernel` → `stages.0.blocks.1.conv_dw.weight`."""
    for theirs, ours in _SPARSE.items():
        name = name.replace(theirs, ours)
    return timm_name(name)


def fitted(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors of MLPs and biases in the shapes of the family; only dimensions of size 1 come and go.

    Raises:
        CheckpointError: a response norm is no row of numbers.
    """
    family = families()["convnext"]
    wanted = family.shapes(family.nearest({name: tuple(tensor.shape) for name, tensor in state.items()}, {}))
    found = dict(state)
    for name, tensor in state.items():
        shape = wanted.get(name)
        if shape is None or not (".mlp." in name or name.endswith(".bias")):
            continue
        if [side for side in tensor.shape if side != 1] == [side for side in shape if side != 1]:
            found[name] = tensor.reshape(shape)
        elif ".mlp.grn." in name:
            raise CheckpointError(
                f"holds a response norm that is no row of {shape[0]} numbers",
                found=f"{name} ({_theirs(name)} in the file) is {tuple(tensor.shape)}",
                todo="check that the file is whole",
            )
    return found


def _theirs(name: str) -> str:
    """`stages.0.blocks.1.mlp.grn.bias` → `stages.0.1.grn.beta`, for messages."""
    return name.replace(".blocks.", ".").replace(".mlp.grn.weight", ".grn.gamma").replace(".mlp.grn.bias", ".grn.beta")


def _dense(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Kernels of sparse convolutions as dense ones have them: [out, in, rows, columns]."""
    found = dict(state)
    for name, tensor in state.items():
        if not (name.endswith(".conv_dw.weight") or re.fullmatch(r"stages\.\d\.downsample\.1\.weight", name)):
            continue
        side = math.isqrt(tensor.shape[0]) if tensor.ndim else 0
        if tensor.ndim not in (2, 3) or not side or side**2 != tensor.shape[0]:
            continue  # the exact check names it
        square = tensor.reshape(side, side, *tensor.shape[1:])  # columns, rows, …
        found[name] = square.permute(2, 1, 0)[:, None] if tensor.ndim == 2 else square.permute(3, 2, 1, 0)
    return fitted(found)


def with_state(form: Format, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Format:
    """`form`, whose tensors are changed in their shapes when they are read."""

    def read(tree: Tree, branch: str | None) -> Extracted:
        extracted = form.read(tree, branch)
        return dataclasses.replace(extracted, state=change(extracted.state))

    return dataclasses.replace(form, read=read)


def _once(form: Format) -> Format:
    """`form` for files that keep the final norm under two names, of one value."""

    def read(tree: Tree, branch: str | None) -> Extracted:
        for key in _FLAT:
            weights = tree if key is None else weights_under(tree, key) or {}
            for outer in ("", "module."):
                demand_equal(weights, f"{outer}norm.", f"{outer}norms.3.")
        return form.read(tree, branch)

    return dataclasses.replace(form, read=read)


_FLAT = ("model", None, "state_dict")
_ONLY = {"only": Network("")}
_SECOND_NAME = {"norms.3.": "the final norm under a second name, equal to the first"}


def _layout(networks: Mapping[str, Network], keys: tuple[str | None, ...]) -> Release:
    return Release(
        "convnext",
        "ConvNeXt",
        networks,
        variants={"stages.0.0.grn.": "ConvNeXt V2"} | dict.fromkeys(MARKERS, "ConvNeXt"),
        behind=_CLASSIFIER,
        keys=keys,
        markers=MARKERS,
        families=("convnext",),
        rename=timm_name,
    )


FORMAT = one_of(
    "convnext",
    with_state(
        prefixed(
            Release(
                "convnext",
                "ConvNeXt V2, FCMAE's encoder and decoder",
                {"only": Network("encoder.")},
                heads=_DECODER,
                keys=_FLAT,
                markers=MARKERS,
                families=("convnext",),
                rename=sparse_name,
            )
        ),
        _dense,
    ),
    _once(
        prefixed(
            Release(
                "convnext",
                "DINOv3, ConvNeXt",
                _ONLY,
                behind=_SECOND_NAME,
                needs=("norms.3.",),
                keys=_FLAT,
                markers=MARKERS,
                families=("convnext",),
                rename=timm_name,
            )
        )
    ),
    with_state(prefixed(_layout({"model": Network("", "model"), "ema": Network("", "model_ema")}, ())), fitted),
    with_state(prefixed(_layout(_ONLY, _FLAT)), fitted),
)
