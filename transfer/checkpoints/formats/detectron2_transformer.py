"""Detectron2 model files with a vision or Swin transformer, read and written by this project.

Layout: a pickled dict `{"model": name → array, "__author__", "transfer"}` with the names that Detectron2's own classes
have in its ViTDet project (facebookresearch/detectron2: detectron2/modeling/backbone/vit.py, swin.py; projects/ViTDet/
configs): `backbone.net.` before a ViT's, which are timm's, and `backbone.bottom_up.` before a Swin's, which are its
authors'. Names are compared exactly: by their endings, Detectron2's other way, the final `norm.weight` would also be
tried on the norms of heads.

Detectron2 loads what its class has a place for and warns of the rest: the final norm, and of a ViT the CLS token. Its
ViT has neither layer scale nor registers nor SwiGLU, and resizes positions by a rule of its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transfer.checkpoints.backbone import Backbone
from transfer.checkpoints.carried import CARRIED, carried, carry
from transfer.checkpoints.families import family_of
from transfer.checkpoints.families.vit import vit_of
from transfer.checkpoints.formats.detectron2 import AUTHOR, pickled, read_only
from transfer.checkpoints.formats.mmdet_swin import demand_one_window
from transfer.checkpoints.formats.swin import authors_name, timm_name
from transfer.checkpoints.rules import Extracted, Format, Match, Mismatch, Target, Tree, beside, has_prefix, separate
from transfer.checkpoints.rules import weights_under as under
from transfer.runtime.errors import CheckpointError
from transfer.runtime.files import write_atomically

NAME = "detectron2_transformer"
VIT, SWIN = "backbone.net.", "backbone.bottom_up."


def _prefix(tree: Tree) -> str | None:
    weights = under(tree, "model")
    starts = {VIT: f"{VIT}blocks.0.", SWIN: f"{SWIN}layers.0."}
    return next((prefix for prefix, start in starts.items() if has_prefix(weights, start)), None)


def recognise(tree: Tree) -> Match | Mismatch:
    """Signed by this project, with a transformer's names under `model`."""
    if tree.get("__author__") != AUTHOR or _prefix(tree) is None:
        return Mismatch(f"no __author__ {AUTHOR} beside names under `model` that begin with {VIT} or {SWIN}layers.")
    return Match(f"{'vision' if _prefix(tree) == VIT else 'Swin'} transformer exported for Detectron2")


def read(tree: Tree, branch: str | None) -> Extracted:
    """Back to timm's names."""
    prefix = _prefix(tree)
    if prefix is None or CARRIED not in tree:
        raise CheckpointError(
            f"is no transformer that this project wrote for Detectron2 (no {CARRIED!r}, or no {VIT} or {SWIN}layers.)",
            todo="leave out --format to have the format recognised",
        )
    named, dropped = separate(under(tree, "model") or {}, prefix, [])
    state = {timm_name(name): tensor for name, tensor in named.items()} if prefix == SWIN else named
    return Extracted(state, dropped + beside(tree, ["model"]), **carried(tree[CARRIED]))


def content(backbone: Backbone) -> dict[str, Any]:
    """What a model file holds: every tensor as a numpy array under Detectron2's name.

    Raises:
        CheckpointError: Detectron2's class has no such parts.
    """
    if family_of(backbone.arch).name == "swin":
        demand_one_window(backbone)
        names = {f"{SWIN}{authors_name(name)}": tensor for name, tensor in backbone.state.items()}
    else:
        vit = vit_of(backbone.arch)
        lacking = {"layer scale": vit.scale, "registers": bool(vit.registers), "SwiGLU": vit.swiglu}
        if found := [what for what, there in lacking.items() if there]:
            raise CheckpointError(
                f"{backbone.source.path} is a {backbone.arch}, and Detectron2's ViT has no {' and no '.join(found)}",
                todo="detectors of this project take it as it is: bash detection/run_coco.sh vit_fpn CKPT; or choose "
                "--to timm",
            )
        names = {f"{VIT}{name}": tensor for name, tensor in backbone.state.items()}
    model = {name: read_only(tensor) for name, tensor in names.items()}
    return {"model": model, "__author__": AUTHOR, CARRIED: carry(backbone)}


def write(backbone: Backbone, path: Path) -> None:
    """Write the backbone as a Detectron2 `.pkl`, whole or not at all."""
    values = content(backbone)
    write_atomically(path, lambda file: pickled(values, file))


FORMAT = Format(
    NAME,
    (),
    recognise,
    read,
    families=("vit", "swin"),
    targets={"detectron2": Target(write, ".pkl", families=("vit", "swin"))},
)
