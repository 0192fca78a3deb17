"""VICReg: views agree, every dimension keeps its variance, and dimensions are decorrelated.

Bardes, Ponce, LeCun, "VICReg: Variance-Invariance-Covariance Regularization for Self-Supervised Learning" (ICLR 2022).
Published settings: facebookresearch/vicreg, main_vicreg.py and README.md.

Views are the paper's symmetrised ones (appendix C.1); the released code has BYOL's asymmetric ones
(`--augmentation byol`). The authors train in half precision, which `--precision` sets here.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tyro.conf import OmitArgPrefixes

from pretrain.forces import Forces
from pretrain.recipe import Recipe, demo


@dataclass(frozen=True)
class Settings:
    """Options of VICReg.

    Attributes:
        views: number of views of an image, 2 in the paper; with more the invariance is the mean over pairs, and the
            other terms keep the weight they have with two (not published).
        forces: the two dispersing forces.
        width: units of each of the expander's three layers; the last is d, length of an embedding.
        invariance: weight of the views' distance.
        variance: weight of the hinge on the standard deviation.
        covariance: weight of the off-diagonal covariance.
    """

    views: int = 2
    forces: OmitArgPrefixes[Forces] = field(default_factory=Forces)
    width: int = 8192
    invariance: float = 25.0
    variance: float = 25.0
    covariance: float = 1.0


def _recipe(epochs: int, batch: int, lr: float) -> Recipe:
    # adjust_learning_rate: linear over 10 epochs from 0, then a cosine to 0.001 of the peak.
    return Recipe(epochs=epochs, start_lr=0.0, batch=batch, lr=lr, final_lr=0.001, weight_decay=1e-6)


PROTOCOLS: dict[str, tuple[Recipe, Settings]] = {
    # README.md: the commands for 100 epochs on one machine and 1000 epochs on four.
    "100": (_recipe(100, 512, 0.3), Settings()),
    "1000": (_recipe(1000, 2048, 0.2), Settings()),
    # The paper, appendix C.4: its trainings of 100 epochs with batches of 512.
    "100-paper": (_recipe(100, 512, 0.4), Settings()),
}
PRESETS: dict[str, tuple[Recipe, Settings]] = {
    # Not a protocol: a minute or two on two CPU cores. Adam, because LARS is for large batches.
    "demo": (
        demo(optimizer="adam", lr=4e-3),
        Settings(width=512),
    ),
}
