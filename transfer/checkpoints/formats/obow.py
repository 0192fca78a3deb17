"""OBoW: the released student in torchvision's layout, checkpoints of the feature extractor, and whole training ones.

All keep a state dict under "network" (valeoai/obow: obow/builder_obow.py, obow/solver.py):

- `tochvision_*.pth.tar` (sic), which the released "feature extractor" is: torchvision's names, with an `fc` that
  predicts the visual words of the last level (8192 in the release);
- `feature_extractor_net_checkpoint_*.pth.tar`: `_feature_blocks.0.Conv`, `_feature_blocks.0.bn` are the stem and
  `_feature_blocks.1` to `.4` the stages (obow/feature_extractor.py);
- whole checkpoints: the same under `feature_extractor.` (the student) and `feature_extractor_teacher.`, each after
  "module." if training was distributed, beside `bow_extractor.`, `bow_predictor.`, a `linear_classifier.` on the
  teacher's detached features, `_alpha` and `_iteration`. The student is evaluated (main_linear_classification.py).

`meters` beside them is always None. The files on GitHub are zip archives that contain the `.pth.tar`.
"""

from transfer.checkpoints.declared import Network, Release, one_of, prefixed


def torchvision_name(name: str) -> str | None:
    """`0.Conv.weight` → `conv1.weight`, `0.bn.bias` → `bn1.bias`, `4.2.bn3.bias` → `layer4.2.bn3.bias`."""
    block, _, rest = name.partition(".")
    if block == "0":
        part, _, rest = rest.partition(".")
        stem = {"Conv": "conv1", "bn": "bn1"}.get(part)
        return f"{stem}.{rest}" if stem else None
    return f"layer{block}.{rest}" if block in ("1", "2", "3", "4") else None


_WHOLE = Release(
    name="obow",
    title="OBoW, student and teacher",
    networks={
        "student": Network("feature_extractor._feature_blocks."),
        "teacher": Network("feature_extractor_teacher._feature_blocks."),
    },
    heads={
        "bow_extractor.": "vocabulary of visual words",
        "bow_predictor.": "predictor of visual words, behind the backbone",
        "linear_classifier.": "online classifier, trained on detached features",
        "_alpha": "momentum of the teacher",
        "_iteration": "counter of iterations",
    },
    keys=("network", None),
    markers=("1.",),
    rename=torchvision_name,
)
_EXTRACTOR = Release(
    name="obow",
    title="OBoW, feature extractor",
    networks={"only": Network("_feature_blocks.")},
    keys=("network", None),
    markers=("1.",),
    rename=torchvision_name,
)
_TORCHVISION = Release(
    name="obow",
    title="OBoW, student in torchvision's layout",
    networks={"only": Network("")},
    heads={"fc.": "predictor of visual words, behind the backbone"},
    keys=("network",),
    outer=("",),
)
FORMAT = one_of("obow", prefixed(_WHOLE), prefixed(_EXTRACTOR), prefixed(_TORCHVISION))
