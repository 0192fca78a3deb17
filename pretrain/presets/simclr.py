"""SimCLR: a view finds the other view of its image among all views of the batch.

Chen, Kornblith, Norouzi, Hinton, "A Simple Framework for Contrastive Learning of Visual Representations" (ICML 2020),
its first version: projector of two layers, weight decay 1e-6. Published settings: section 2.1 and 2.3 there, and
google-research/simclr, run.py, model_util.py and objective.py (now with version 2's defaults; the first commit has
version 1's).

What differs from the authors' code: the loss is the paper's mean over all 2n views (algorithm 1), theirs the sum of the
means over each view, twice as much, which LARS undoes but for biases and norm parameters; their LARS has the learning
rate inside its momentum; encoder weights are initialised as torchvision does (theirs: truncated normal).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tyro.conf import OmitArgPrefixes

from pretrain.forces import Forces
from pretrain.recipe import Recipe, demo


@dataclass(frozen=True)
class Settings:
    """Options of SimCLR.

    Attributes:
        views: number of views of an image; 2.
        forces: the two dispersing forces.
        dimensions: d, length of an embedding; the projector's hidden layer is as wide as the encoder's feature.
        temperature: τ, by which similarities are divided.
    """

    views: int = 2
    forces: OmitArgPrefixes[Forces] = field(default_factory=Forces)
    dimensions: int = 128
    temperature: float = 0.1


PROTOCOLS: dict[str, tuple[Recipe, Settings]] = {
    # Section 2.3: LARS, 0.3 · batch / 256, batch 4096, 10 epochs of warm-up, cosine; 1000 epochs: table 6. The warm-up
    # is from 0 (model_util.py: learning_rate_schedule).
    "100": (Recipe(augmentation="simclr", epochs=100, start_lr=0.0, lr=0.3, weight_decay=1e-6), Settings()),
    "1000": (Recipe(augmentation="simclr", epochs=1000, start_lr=0.0, lr=0.3, weight_decay=1e-6), Settings()),
}
PRESETS: dict[str, tuple[Recipe, Settings]] = {
    # Not a protocol: a minute or two on two CPU cores. Adam, because LARS is for large batches.
    "demo": (
        demo(augmentation="simclr", optimizer="adam", lr=4e-3, weight_decay=1e-6),
        Settings(temperature=0.2),
    ),
}
