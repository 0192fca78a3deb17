"""The optimiser of a recipe."""

from __future__ import annotations

import torch
from timm.optim import Lars
from torch import nn

from pretrain.recipe import Recipe


def build_optimizer(recipe: Recipe, network: nn.Module) -> torch.optim.Optimizer:
    """LARS or SGD over the trainable parameters of `network`, biases and norm parameters in a group of their own.

    That second group has neither weight decay nor LARS's adaptation (Grill et al. 2020, appendix C). The learning
    rate is set at every step by the training loop.
    """
    trainable = [parameter for parameter in network.parameters() if parameter.requires_grad]
    weights = {"params": [p for p in trainable if p.ndim > 1], "weight_decay": recipe.weight_decay}
    others = {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0}
    if recipe.optimizer == "sgd":
        return torch.optim.SGD([weights, others], lr=recipe.lr, momentum=recipe.momentum)
    # timm adapts a group when it decays; asking for it keeps that true with --weight-decay 0.
    groups = [weights | {"always_adapt": True}, others]
    optimizer: torch.optim.Optimizer = Lars(
        groups, lr=recipe.lr, momentum=recipe.momentum, trust_coeff=recipe.trust, always_adapt=False
    )
    return optimizer
