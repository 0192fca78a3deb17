"""A plain ViT, BEiT, DINOv3, ConvNeXt or Swin under timm's names, bare or under "state_dict" and the like.

Covers timm's own files, the released backbones of DINO (facebookresearch/dino: hubconf.py), extracted ones of iBOT, and
what `python -m transfer convert --to timm` and `--to safetensors` write. Such a file says nothing of mean and std
(timm's BEiT and augreg weights were trained with .5), of the number of heads (MoCo v3's ViT-S has 12), of eps, or of
how positions are resized: a converted file carries that, of others it is assumed and noted.
"""

from __future__ import annotations

import json
import math
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from transfer.checkpoints.backbone import Backbone
from transfer.checkpoints.carried import CARRIED, TIMMS_RULE, assumed, carried, carry
from transfer.checkpoints.declared import CLASSIFIERS, plain_place, plainly_explained, renamed
from transfer.checkpoints.families import families, family_of_names, markers
from transfer.checkpoints.families.dinov3 import NO_PERIODS, usual_periods
from transfer.checkpoints.formats.beit import FIRST, HALF, INDICES
from transfer.checkpoints.formats.ibot import timm_name
from transfer.checkpoints.rules import (
    TRAINING_STATE,
    Drop,
    Extracted,
    Format,
    Match,
    Mismatch,
    Target,
    Tree,
    beside,
    separate,
)
from transfer.checkpoints.safetensors_files import write_safetensors
from transfer.runtime.errors import CheckpointError
from transfer.runtime.files import save_torch, write_atomically

NAME = "plain"
PARTS = "cls_token_and_position"  # of what is carried: the two terms of timm's sum
KEYS = ("state_dict", "model", "model_state_dict", "net", "module", "teacher")
_MARKERS = tuple(marker for marker in markers() if marker not in families()["resnet"].markers)
FOLDED = (
    "timm adds the CLS token's position to the token where there are registers; the sum is taken as the token and its "
    "position as zero, which computes the same"
)


def recognise(tree: Tree) -> Match | Mismatch:
    """A name that begins as a first block's under timm's names, at the top or under one of `KEYS`."""
    located = plain_place(tree, _MARKERS, KEYS)
    if located is None:
        return Mismatch(f"no name begins with {' or '.join(_MARKERS)}, at the top or under {', '.join(KEYS)}")
    return Match("plain network under timm's names" + (f", in {located[1]!r}" if located[1] else ""))


def read(tree: Tree, branch: str | None) -> Extracted:
    """Drop the classifier, keep the rest."""
    weights, key, prefix = plain_place(tree, _MARKERS, KEYS) or (tree, None, "")
    if key is None:
        weights = _without_training_state(weights)
    names = [str(name).removeprefix(prefix) for name in weights]
    tables = any(name.endswith("relative_position_bias_table") for name in names)
    family = family_of_names(names).name
    of_beit = family == "beit"
    left = (
        (INDICES if of_beit else {})
        | CLASSIFIERS
        | dict.fromkeys(("masked_embed", "mask_token"), "stands for masked patches in pretraining")
    )
    state, dropped = separate(weights, prefix, [Drop(prefix + start, reason) for start, reason in left.items()])
    if family == "vit":  # BEiT's and DINOv3's layer scales are called `gamma_1` by timm, too
        state = renamed(state, timm_name, prefix)
    if key is not None:
        dropped += beside(tree, [key])
    metadata = getattr(weights, "_metadata", None)
    said = metadata.get(CARRIED) if isinstance(metadata, Mapping) else None
    facts = carried(said)
    if isinstance(said, Mapping) and PARTS in said:
        state = _apart(state, said[PARTS])
    notes: tuple[str, ...] = ()
    if family == "dinov3" and "rope.periods" not in state:  # timm's files
        state["rope.periods"] = usual_periods(state)
        notes = (NO_PERIODS,)
    notes += (assumed(list(state)),)
    if _is_folded(state):
        # x + 0 is x: the same sum, in the two terms that the family has
        state["pos_embed"] = torch.cat([torch.zeros_like(state["cls_token"]), state["pos_embed"]], 1)
        notes += (FOLDED,)
    if "arch" not in facts:
        facts |= {"notes": notes, "facts": TIMMS_RULE}
        facts |= {"input": HALF, "lints": (FIRST,), "notes": ()} if of_beit and tables else {}
    return Extracted(state, dropped, **facts)


def _is_folded(state: Mapping[str, torch.Tensor]) -> bool:
    """Registers, a CLS token, and positions of a square of patches alone."""
    token, table = state.get("cls_token"), state.get("pos_embed")
    if "reg_token" not in state or token is None or table is None or token.shape[:2] != (1, 1) or table.ndim != 3:
        return False
    plain = all(tensor.layout == torch.strided and not tensor.is_meta for tensor in (token, table))
    return plain and token.shape[2] == table.shape[2] and math.isqrt(table.shape[1]) ** 2 == table.shape[1]


def _without_training_state(weights: Mapping[str, Any]) -> Mapping[str, Any]:
    if not any(name in TRAINING_STATE for name in weights):
        return weights  # as it is: its _metadata may carry facts
    return {name: value for name, value in weights.items() if name not in TRAINING_STATE}


def to_timm(backbone: Backbone) -> tuple[OrderedDict[str, torch.Tensor], dict[str, Any]]:
    """(timm's state dict, what it cannot say).

    timm adds the CLS token's position into the token itself where there are registers (vision_transformer.py,
    checkpoint_filter_fn). A sum cannot be taken apart again, so its two parts are kept beside it.
    """
    state, said = OrderedDict(backbone.state), carry(backbone)
    if "rope.periods" in state and torch.equal(state["rope.periods"], usual_periods(state)):
        del state["rope.periods"]  # timm computes these itself; it refuses a file with others
    if {"reg_token", "cls_token", "pos_embed"} <= state.keys():
        token, table = state["cls_token"], state["pos_embed"]
        state["cls_token"], state["pos_embed"] = token + table[:, :1], table[:, 1:].contiguous()
        said[PARTS] = {"cls_token": token.flatten().tolist(), "position": table[0, 0].tolist()}
    return state, said


def _apart(state: dict[str, torch.Tensor], parts: object) -> dict[str, torch.Tensor]:
    """A CLS token and its position out of timm's sum of them.

    Raises:
        CheckpointError: the parts do not give the sum that the file holds.
    """
    token, table = state.get("cls_token"), state.get("pos_embed")
    known = [parts.get(name) for name in ("cls_token", "position")] if isinstance(parts, Mapping) else []
    sound = all(isinstance(values, list) and all(type(value) is float for value in values) for values in known)
    if token is None or table is None or not known or not sound:
        raise CheckpointError(f"has an unusable entry {CARRIED!r}", todo="convert it again")
    own, position = (torch.tensor(values, dtype=torch.float32).view(1, 1, -1) for values in known)
    if own.shape != token.shape or position.shape != token.shape or not torch.equal(own + position, token):
        raise CheckpointError(
            "holds a CLS token that is not the sum of the token and the position it was converted from",
            found="cls_token",
            todo="convert it again",
        )
    return state | {"cls_token": own, "pos_embed": torch.cat([position, table], 1)}


def write(backbone: Backbone, path: Path) -> None:
    """Write the backbone as timm's state dict in a torch file, whole or not at all."""
    state, said = to_timm(backbone)
    state._metadata = {CARRIED: said}  # type: ignore[attr-defined]
    save_torch(state, path)


def write_plain(backbone: Backbone, path: Path) -> None:
    """Write the backbone's own names as safetensors, for any program, whole or not at all."""
    metadata = {CARRIED: json.dumps(carry(backbone))}
    write_atomically(path, lambda file: write_safetensors(backbone.state, metadata, file))


_FAMILIES = tuple(name for name in families() if name != "resnet")
FORMAT = Format(
    NAME,
    (),
    recognise,
    read,
    lambda tree: plainly_explained(tree, KEYS),
    general=2,
    targets={
        "timm": Target(write, families=_FAMILIES),
        "safetensors": Target(write_plain, ".safetensors", families=_FAMILIES),
    },
    families=_FAMILIES,
    told_by_name=True,
)
