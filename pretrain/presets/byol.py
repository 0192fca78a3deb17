"""BYOL: an online network predicts what a slow copy of it makes of another view.

Grill et al., "Bootstrap Your Own Latent" (NeurIPS 2020). Published settings: google-deepmind/deepmind-research,
byol/configs/byol.py (learning rate, weight decay and EMA by number of epochs) and byol/byol_experiment.py.

Networks and slow copy are those that MSBReg took from here. Two things differ from the authors' code: weights are
initialised as torchvision does (Haiku: truncated normal), and the target starts as a copy of the online network
(there: drawn anew; the authors saw no difference).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tyro.conf import OmitArgPrefixes

from pretrain.forces import Forces
from pretrain.recipe import Recipe, demo


@dataclass(frozen=True)
class Settings:
    """Options of BYOL.

    Attributes:
        views: number of views of an image; 2, more are MSBReg's.
        forces: the two dispersing forces.
        hidden: units of the hidden layer of projector and predictor.
        dimensions: d, length of an embedding.
        ema: decay of the target network at the start; rises to 1 along a cosine.
    """

    views: int = 2
    forces: OmitArgPrefixes[Forces] = field(default_factory=Forces)
    hidden: int = 4096
    dimensions: int = 256
    ema: float = 0.99


def _recipe(epochs: int, lr: float, weight_decay: float) -> Recipe:
    # utils/schedules.py: linear over 10 epochs from 0, then a cosine to 0.
    return Recipe(augmentation="byol", epochs=epochs, start_lr=0.0, lr=lr, weight_decay=weight_decay)


PROTOCOLS: dict[str, tuple[Recipe, Settings]] = {
    "100": (_recipe(100, 0.45, 1e-6), Settings(ema=0.99)),
    "300": (_recipe(300, 0.3, 1e-6), Settings(ema=0.99)),
    "1000": (_recipe(1000, 0.2, 1.5e-6), Settings(ema=0.996)),
}
PRESETS: dict[str, tuple[Recipe, Settings]] = {
    # Not a protocol: a minute or two on two CPU cores. Half of MSBReg's learning rate, for a loss twice as large.
    "demo": (
        demo(augmentation="byol", optimizer="sgd", lr=0.2, weight_decay=1e-5),
        Settings(hidden=1024, ema=0.95),
    ),
}
