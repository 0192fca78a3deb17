"""Local Aggregation, the PyTorch version by its authors' group: recognised, and refused.

Layout: `model_state_dict` (or `resnet_state_dict`, in its fine-tuning) with a pre-activation ResNet: `conv1` without a
normalisation behind it, `layer1.0.bn1`, `layer1.0.shortcut.0`, a last `bn` and `linear`; `module.` before them if
several GPUs were used (neuroailab/LocalAggregation-Pytorch: src/models/preact_resnet.py, src/agents/agents.py). As the
code saves it, the file also pickles a settings object (dotmap) and the memory bank, for which it is turned away when it
is opened. The original release is a TensorFlow checkpoint of the same kind of network (neuroailab/LocalAggregation).
"""

from __future__ import annotations

from transfer.checkpoints.rules import Match, Mismatch, Tree, has_prefix, refused, weights_under


def recognise(tree: Tree) -> Match | Mismatch:
    """A shortcut in the first block of a ResNet whose last normalisation lies behind all stages."""
    for key in ("model_state_dict", "resnet_state_dict"):
        weights = weights_under(tree, key)
        for outer in ("", "module."):
            if has_prefix(weights, f"{outer}layer1.0.shortcut.") and has_prefix(weights, f"{outer}bn."):
                return Match("Local Aggregation, pre-activation ResNet")
    return Mismatch("no layer1.0.shortcut. and bn. under model_state_dict or resnet_state_dict")


FORMAT = refused(
    "local_aggregation",
    recognise,
    "is a pre-activation ResNet (Local Aggregation): it normalises before each convolution, and no detection engine "
    "builds such a network",
    "take a method that trains torchvision's ResNet; MoCo and PCL are the closest ones to this one",
)
