"""MSBReg: BYOL's online and target networks, K views, and the three forces of `pretrain.losses`.

Moon et al., "An Embedding-Dynamic Approach to Self-supervised Learning" (arXiv 2207.03552, WACV 2023). Networks,
heads, slow copy and schedules are BYOL's (Grill et al. 2020), because the paper's own were not available to us.
`--views 2 --singular 0 --brownian 0` is BYOL with its symmetric loss halved.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tyro.conf import OmitArgPrefixes

from pretrain.forces import Centroid, Forces
from pretrain.recipe import Recipe, demo


@dataclass(frozen=True)
class Settings:
    """Options of MSBReg.

    Attributes:
        views: K, the number of views of an image, 2 to 8 in the paper's ablation.
        centroid: what each view is drawn to: the centroid of the targets of the other views, of all views,
            or (pair) the online centroid to the target centroid.
        forces: the two dispersing forces.
        hidden: units of the hidden layer of projector and predictor.
        dimensions: d, length of an embedding.
        ema: decay of the target network at the start; rises to 1 along a cosine.
    """

    views: int = 4
    centroid: Centroid = "others"
    forces: OmitArgPrefixes[Forces] = field(default_factory=lambda: Forces(singular=0.004, brownian=0.5))
    hidden: int = 4096
    dimensions: int = 256
    ema: float = 0.99


PROTOCOLS: dict[str, tuple[Recipe, Settings]] = {
    # byol/configs/byol.py: learning rate, weight decay and EMA base by number of epochs; utils/schedules.py: from 0
    "100": (Recipe(epochs=100, start_lr=0.0, lr=0.45, weight_decay=1e-6), Settings(ema=0.99)),
    "300": (Recipe(epochs=300, start_lr=0.0, lr=0.3, weight_decay=1e-6), Settings(ema=0.99)),
    "1000": (Recipe(epochs=1000, start_lr=0.0, lr=0.2, weight_decay=1.5e-6), Settings(ema=0.996)),
}
PRESETS: dict[str, tuple[Recipe, Settings]] = {
    # Not a protocol: about 85 seconds on two free CPU cores, to show that everything works. Too short to learn features
    # that are reliably better than random ones. λ_s is raised because a batch is small: the pull of the singular
    # term beside the centroid's is λ_s·√(n·min(n, d))/2, here 1, as for λ_s = 0.004 at 1,000 images and d = 256.
    "demo": (
        demo(optimizer="sgd", lr=0.4, weight_decay=1e-5),
        Settings(forces=Forces(singular=0.06, brownian=0.5), hidden=1024, ema=0.95),
    ),
}
