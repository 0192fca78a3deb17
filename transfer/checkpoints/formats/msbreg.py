"""This project's own pretraining checkpoints, version 1, as `pretrain` writes them.

Layout: `{"format": "msbreg-checkpoint", "version": 1, "arch", "method", "epoch", "step", "stem", "input", "online",
"target", "rest", "config"}`, beside training state. `online` and `target` hold `encoder.` (of a ResNet torchvision's
names without `fc`, of a vision transformer timm's without `head`), `projector.` and, online only, `predictor.`; `rest`
what else the method remembers (a queue, prototypes, a classifier). A transformer's `arch` is its whole name, which says
for which size its positions are and how they are resized.

`target` exists for methods with a slow copy (MSBReg, BYOL, MoCo, DINO). The online network is the one that is
evaluated, as BYOL's authors do (google-deepmind/deepmind-research: byol), but of DINO the moving average, its teacher
(facebookresearch/dino: eval_linear.py); `--branch` takes the other one.
"""

from __future__ import annotations

from collections.abc import Mapping
from reprlib import repr as brief

from transfer.checkpoints.carried import input_from_dict
from transfer.checkpoints.rules import (
    Drop,
    Extracted,
    Format,
    Match,
    Mismatch,
    Tree,
    beside,
    everything,
    needed_weights,
    other_network,
    separate,
)
from transfer.runtime.errors import CheckpointError

NAME = "msbreg"
BRANCHES = ("online", "target")
AVERAGED = ("dino",)  # methods whose authors evaluate the moving average
MEMORY = "rest"
MARK, VERSION = "msbreg-checkpoint", 1


def recognise(tree: Tree) -> Match | Mismatch:
    """The entry `format` says so."""
    mark = tree.get("format")
    if not isinstance(mark, str) or mark != MARK:
        return Mismatch(f"no entry `format` that says {MARK!r}")
    return Match(f"this project's own pretraining, method {brief(tree.get('method'))}")


def read(tree: Tree, branch: str | None) -> Extracted:
    """Take the encoder of the online network, or of its moving average."""
    taken = branch or BRANCHES[tree.get("method") in AVERAGED]
    version, stem, arch = tree.get("version"), tree.get("stem"), tree.get("arch")
    if type(version) is not int or version != VERSION:
        raise CheckpointError(
            f"is a checkpoint of version {brief(version)}, this program reads version {VERSION}",
            todo="update this program" if isinstance(version, int) and version > VERSION else "pretrain again",
        )
    if not isinstance(stem, str) or stem != "imagenet":
        raise CheckpointError(
            f"was pretrained with the stem {brief(stem)}, which no detection engine builds",
            todo="pretrain with the ImageNet stem (7×7 convolution and max-pooling)",
        )
    rules = [
        Drop("projector.", "projector, behind the backbone"),
        Drop("predictor.", "predictor, behind the projector"),
    ]
    state, dropped = separate(needed_weights(tree, taken, NAME), "encoder.", rules, where=f"{taken}.")
    other = tree.get(_other(taken), {})
    if isinstance(other, Mapping):
        dropped += everything(other, other_network(_other(taken), taken), where=f"{_other(taken)}.")
    memory = tree.get(MEMORY, {})
    if isinstance(memory, Mapping):
        dropped += everything(memory, "what the method keeps beside its networks", where=f"{MEMORY}.")
    dropped += beside(tree, (*BRANCHES, MEMORY))
    spec = input_from_dict(tree.get("input"))
    return Extracted(state, dropped, taken, spec, arch=arch if isinstance(arch, str) else None)


def _other(branch: str) -> str:
    return "target" if branch == "online" else "online"


FORMAT = Format(NAME, BRANCHES, recognise, read, families=("resnet", "vit"))
