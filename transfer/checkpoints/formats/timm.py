"""timm's training script, and torchvision's with --model-ema: a moving average beside the model.

Layout of CheckpointSaver's files: `{"epoch", "arch", "optimizer", "version", "args", "amp_scaler", "state_dict",
"state_dict_ema", "metric", …}`, names as in torchvision, `fc.` the classifier (huggingface/pytorch-image-models:
timm/utils/checkpoint_saver.py). `create_model(checkpoint_path=…)` and `load_checkpoint` take `state_dict_ema` (or
`model_ema`) where there is one (timm/models/_helpers.py); validate.py does so with `--use-ema` only. timm's loader cuts
`module.` and `_orig_mod.` off names, as here. Bare files of timm are plain ResNets and read as those.

torchvision's reference training writes `{"model", "optimizer", "lr_scheduler", "epoch", "args"}` and with `--model-ema`
`model_ema`, the state dict of an `AveragedModel`, which it evaluates at the end of every epoch, too (pytorch/vision:
references/classification/train.py, utils.py). The average is the default, as in timm's loader.

`arch` names timm's model. resnetaa50, resnetblur18 and resnetblur50 have the names and shapes of resnet50 and resnet18,
but their strides sit in anti-aliasing layers: they are refused by that entry, and nothing tells them in a bare file.
Relatives with other tensors (50d's deep stem, SE and ECA layers, group normalisation) are refused by these.
"""

from __future__ import annotations

import dataclasses
from reprlib import repr as brief

from transfer.checkpoints.declared import CLASSIFIERS, OUTER, Network, Release, one_of, prefixed
from transfer.checkpoints.families import markers
from transfer.checkpoints.rules import Extracted, Format, Match, Mismatch, Tree, has_prefix, weights_under
from transfer.runtime.errors import CheckpointError

_BEHIND = CLASSIFIERS
_TASK = "what timm's training task keeps beside the model"
_NOTE = "the script's `args`, where another normalisation may have been set, are not read"


def _trainer(average: str, model: str) -> Format:
    return prefixed(
        Release(
            name="timm",
            title="training checkpoint of timm, or of torchvision with a moving average",
            networks={"ema": Network("", key=average), "model": Network("", key=model)},
            behind=_BEHIND,
            heads={"task_state": _TASK, "task_state_ema": _TASK},
            keys=(),
            markers=markers(),
            facts={"positions": "antialias"},
            notes=(_NOTE,),
        )
    )


_TRAINER = one_of("timm", _trainer("state_dict_ema", "state_dict"), _trainer("model_ema", "model"))


def recognise(tree: Tree) -> Match | Mismatch:
    """The trainer's entries: `version` beside `arch`, or an average beside the model."""
    signed = type(tree.get("version")) is int and isinstance(tree.get("arch"), str)
    averages = [weights_under(tree, key) for key in ("state_dict_ema", "model_ema")]
    if signed or any(has_prefix(each, outer + marker) for each in averages for outer in OUTER for marker in markers()):
        return _TRAINER.recognise(tree)
    return Mismatch("no `version` beside `arch`, no average")


def read(tree: Tree, branch: str | None) -> Extracted:
    """The averaged network where there is one; a model that hides its strides is refused by its name."""
    arch = tree.get("arch")
    if isinstance(arch, str) and arch.startswith(("resnetaa", "resnetblur")):
        raise CheckpointError(
            f"is timm's {brief(arch)}, whose strides sit in anti-aliasing layers",
            found="its tensors look like those of a plain ResNet, but its features come from other positions",
            todo="neither engine has this network: take a resnet50 or resnet18 of timm's",
        )
    return _TRAINER.read(tree, branch)


FORMAT = dataclasses.replace(_TRAINER, recognise=recognise, read=read, told_by_name=True)
