"""The optimiser of a recipe."""

from __future__ import annotations

from typing import Any

import torch
from timm.optim import Lars

from pretrain.methods import Method
from pretrain.recipe import Recipe

TOKENS = ("pos_embed", "cls_token")  # of a transformer: parameters that are neither weights nor vectors


def build_optimizer(recipe: Recipe, method: Method) -> torch.optim.Optimizer:
    """LARS, SGD, AdamW or Adam over the trainable parameters of a method, in groups.

    Biases and norm parameters have neither weight decay nor LARS's adaptation (Grill et al. 2020, appendix C), unless
    the recipe says `decay_all`, and may have a learning rate of their own. A transformer's positions and tokens are
    not decayed either (Touvron et al., DeiT, 2021: facebookresearch/deit, models.py, no_weight_decay), but where the
    method's authors do it. A group's `peak` is its highest learning rate, `constant` says that the cosine does not
    touch it; see `set_rate`.
    """
    constant = {id(p) for module in method.constant_rate for p in module.parameters()}
    tokens = () if getattr(method, "decays_tokens", False) else TOKENS
    groups: dict[tuple[bool, bool, bool], dict[str, Any]] = {}
    for name, parameter in method.named_parameters():
        if not parameter.requires_grad:
            continue
        vector, token = parameter.ndim <= 1, name.endswith(tokens)
        spared = (vector or token) and not recipe.decay_all
        key = vector, id(parameter) in constant, token
        base = recipe.bias_lr if vector and recipe.bias_lr else recipe.lr
        group = groups.setdefault(key, {"params": [], "peak": recipe.peak(base), "constant": key[1]})
        group["params"].append(parameter)
        group["weight_decay"] = 0.0 if spared else recipe.weight_decay
        # timm adapts a group when it decays; asking for it keeps that true with --weight-decay 0.
        group["always_adapt"] = not spared
    listed = [{"lr": group["peak"], **group} for group in groups.values()]
    return _optimizer(recipe, listed)


def _optimizer(recipe: Recipe, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum)
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.lr, betas=(recipe.momentum, 0.999))
    if recipe.optimizer == "adam":
        return torch.optim.Adam(groups, lr=recipe.lr, betas=(recipe.momentum, 0.999))
    lars: torch.optim.Optimizer = Lars(
        groups, lr=recipe.lr, momentum=recipe.momentum, trust_coeff=recipe.trust, always_adapt=False
    )
    return lars


def set_rate(optimizer: torch.optim.Optimizer, share: float, warm: bool) -> float:
    """Set every group to `share` of its peak; constant ones stay at the peak unless training is `warm`ing up.

    Returns the learning rate of the first group.
    """
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * (share if warm or not group["constant"] else 1.0)
    rate: float = optimizer.param_groups[0]["lr"]
    return rate


def set_decay(optimizer: torch.optim.Optimizer, decay: float) -> None:
    """Set the weight decay of the groups that have one; biases, norms and the like stay without."""
    for group in optimizer.param_groups:
        if group["always_adapt"]:
            group["weight_decay"] = decay
