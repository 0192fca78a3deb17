"""Which dispersing forces act, and how strongly: what is typed on a command line. `pretrain.losses` computes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch
    from torch import Tensor

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

    def dispersion(self, z: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Weighted sum of the two forces, and each before weighting; a force of weight 0 is not computed."""
        from pretrain.losses import brownian_loss, singular_value_loss, widened

        total, terms = z.new_zeros((), dtype=widened(z).dtype), {}
        if self.singular:
            terms["singular"] = singular_value_loss(z, self.singular_form)
            total = total + self.singular * terms["singular"]
        if self.brownian:
            terms["brownian"] = brownian_loss(z, self.brownian_per, generator)
            total = total + self.brownian * terms["brownian"]
        return total, terms
