"""Which toolkit wrote a file whose backbone is called `backbone.`: decided here, once, for all formats of that family.

solo-learn, lightly, mmselfsup/mmpretrain, stable-pretraining and many a private trainer keep a ResNet under
`state_dict` → `backbone.`. They differ in what lies beside it, and that decides which of two networks was evaluated.
The first of these clues that a file shows names its format; a later one never overrules an earlier one (detection
heads, `rpn_head.` and the like, come before them all: they are MMDetection's):

1. stable-pretraining's hyper-parameter `system.working_dir`, or names that only it has: probes under
   `callbacks_modules.`, a `backbone.student.` or `.teacher.`, a `queue.pointer`;
2. OpenMMLab's entry `meta` with the version of one of its libraries, or its names (`data_preprocessor.`, `neck.`,
   `encoder_k.module.0.`, …);
3. lightly's names (`projection_head.`, `online_classifier.classification_head.`, `student_backbone.`, …);
4. solo-learn's: its momentum network or the `classifier.` that every one of its models has;
5. no clue: the format `backbone`, which takes the only network called `backbone.`, says that nobody signed the file,
   and refuses it as soon as a tensor lies there that could be a second backbone.

A refusal instead of the last would send its reader to write the same five lines of renaming by hand, unchecked; and
where the heads were cut off, all of the toolkits mean the same network by that name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transfer.checkpoints.declared import Release, one_of, prefixed
from transfer.checkpoints.rules import Extracted, Format, Match, Mismatch, Tree, has_prefix, weights_under

# Entries beside the state dict, or names in it, with which Lightning keeps its own state.
LIGHTNING = {
    "loops": "state of Lightning's training loop",
    "callbacks": "state of Lightning's callbacks",
}

_FAMILY = ("backbone.", "student_backbone.", "teacher_backbone.", "encoder.layer1.", "module.backbone.")

_CLUES: Mapping[str, tuple[str, ...]] = {
    "mmdet_detector": ("rpn_head.", "roi_head.", "bbox_head."),
    "stable_pretraining": (
        *("callbacks_modules.", "callbacks_metrics.", "backbone.student.", "backbone.teacher."),
        *("queue.pointer", "proj_image.", "proj_jigsaw."),
    ),
    "mmselfsup": (
        *("data_preprocessor.", "neck.", "sobel_layer.", "memory_bank.", "loss_weight", "head.predictor.", "head.fc."),
        *(
            f"{average}.{network}."
            for average in ("encoder_k", "target_net", "momentum_encoder")
            for network in ("module.0", "0")
        ),
        *("encoder_q.0.", "online_net.0.", "base_encoder.0.", "encoder.0."),
    ),
    "lightly": (
        *("online_classifier.classification_head.", "projection_head.", "prediction_head.", "projection_head_global."),
        *("student_backbone.", "teacher_backbone.", "key_backbone.", "query_backbone.", "backbone_momentum."),
        *("backbone.4.0.",),
    ),
    "solo_learn": (
        *("momentum_backbone.", "momentum_encoder.layer1.", "momentum_projector.", "momentum_head."),
        *("classifier.",),
    ),
}


def origin(tree: Tree) -> tuple[str | None, str]:
    """(format that owns a file of this family, the clue that says so); (None, why not) for any other file."""
    under = weights_under(tree, "state_dict")
    weights: Mapping[str, Any] = tree if under is None else under
    if not any(has_prefix(weights, start) for start in _FAMILY):
        return None, "no name begins with backbone. (under state_dict, the top)"
    signed = {"stable_pretraining": _stable_pretraining(tree), "mmselfsup": _openmmlab(tree)}
    for name, starts in _CLUES.items():
        if signature := signed.get(name):
            return name, signature
        if clue := next((start for start in starts if has_prefix(weights, start)), None):
            return name, f"names begin with {clue}"
    if has_prefix(weights, "encoder.layer1."):
        return None, "a network called encoder. without solo-learn's classifier."
    return "backbone", "nothing beside `backbone.` says which toolkit wrote it"


def member(name: str, *layouts: Release) -> Format:
    """The format of one toolkit: it claims the files that `origin` gives it, in the first layout that fits."""
    format = one_of(name, *(prefixed(layout) for layout in layouts))

    def matches(tree: Tree) -> Match | Mismatch:
        owner, clue = origin(tree)
        if owner != name:
            return Mismatch(clue if owner is None else f"{clue}, as in files of the format {owner}")
        return format.matches(tree)

    def extract(tree: Tree, branch: str | None) -> Extracted:
        return format.extract(tree, branch)

    return Format(name, format.branches, matches, extract, format.explained)


def _openmmlab(tree: Tree) -> str | None:
    """What in `meta` gives the version of one of OpenMMLab's libraries."""
    meta = tree.get("meta")
    keys = [key for key in meta if isinstance(key, str)] if isinstance(meta, Mapping) else []
    library = next((key for key in keys if key.startswith(("mm", "openselfsup")) and key.endswith("_version")), None)
    return f"`meta` holds {library}" if library else None


def _stable_pretraining(tree: Tree) -> str | None:
    """The setting that its Module adds to every model's hyper-parameters."""
    settings, key = tree.get("hyper_parameters"), "system.working_dir"
    return f"`hyper_parameters` holds {key}" if isinstance(settings, Mapping) and key in settings else None
