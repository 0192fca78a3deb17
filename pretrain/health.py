"""Cheap signs of life of the embeddings of one batch, and what they mean in words."""

from __future__ import annotations

import torch
from torch import Tensor

STD_FLOOR = 0.1  # of a uniform spread; every embedding in one place gives 0
RANK_FLOOR = 2.0  # effective dimensions


@torch.no_grad()
def health(embeddings: Tensor) -> dict[str, float]:
    """Spread and effective rank of one view's unit embeddings.

    Args:
        embeddings: [n, d] unit vectors.

    Returns:
        std: standard deviation over images, averaged over dimensions, in units of 1/√d: 1 is uniform on the
            sphere, 0 is collapse (Chen and He, SimSiam, 2021, section 4.1).
        effective_rank: exp of the entropy of σ_j / Σσ, 1 to min(n, d) (RankMe, Garrido et al. 2023, eq. 1).
    """
    z = embeddings.double()
    n, d = z.shape
    spread = z.std(dim=0, correction=0).mean() * d**0.5
    gram = z.mT @ z if n >= d else z @ z.mT
    sigma = torch.linalg.eigvalsh(gram).clamp_min(0).sqrt()
    share = sigma / sigma.sum()
    return {"std": spread.item(), "effective_rank": torch.special.entr(share).sum().exp().item()}


def collapse_warning(signs: dict[str, float]) -> str:
    """What to tell the person at the keyboard, or nothing while all is well."""
    if signs["std"] >= STD_FLOOR and signs["effective_rank"] >= RANK_FLOOR:
        return ""
    return (
        f"the embeddings are collapsing: spread {signs['std']:.3f} of a uniform one, effective rank "
        f"{signs['effective_rank']:.1f}. If this stays so the encoder learns nothing; stop, and try a lower --lr, "
        "a larger --singular or a longer warm-up"
    )
