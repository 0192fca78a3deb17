"""Which dispersing forces act, and how strongly: what is typed on a command line. `pretrain.losses` computes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Centroid = Literal["others", "all", "pair"]
SingularForm = Literal["nuclear", "covariance"]
Direction = Literal["view", "image"]


@dataclass(frozen=True)
class Forces:
    """The two dispersing forces, λ_s · singular value + λ_b · Brownian, which can be added to any method's loss.

    Attributes:
        singular: weight of the singular value loss, λ_s (in the paper accuracy rises until 0.004); 0: off.
        brownian: weight of the Brownian diffusive loss, λ_b (in the paper accuracy rises until 0.5); 0: off.
        singular_form: −Σσ of the embeddings, or the distance of their covariance to the identity.
        brownian_per: one random direction for every view, or one shared by the views of an image.
    """

    singular: float = 0.0
    brownian: float = 0.0
    singular_form: SingularForm = "nuclear"
    brownian_per: Direction = "view"
