"""The pretraining methods, one file each; a file in this folder is found by its name.

A file declares `build`, (network, settings) → `Method`, and `NEEDS_LABELS = True` if its loss wants labels. Its options
and recipes, `Settings`, `PROTOCOLS` and `PRESETS`, come from the file of the same name in `pretrain.presets`.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from types import ModuleType

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from pretrain.forces import Forces
from pretrain.losses import dispersion
from pretrain.presets import find_presets

Outputs = tuple[Tensor, ...]


class Method(nn.Module, ABC):
    """What the training loop asks of a method.

    A step is: `before_step`, `forward` on the views of every part of the batch (a process, a micro-batch), `loss` once
    on the outputs of all parts together, its gradient back through each part, `after_backward`, the update,
    `after_step`.
    So a loss may look at the whole batch (a covariance, negatives) and means the same however the batch is cut.

    Attributes:
        branches: name → network whose weights go into the checkpoint, with the encoder as `encoder`; "online" is the
            one that is trained.
        evaluated: the branch that its authors evaluate.
        forces: the dispersing forces of MSBReg, added to the loss of any method; weights of 0 switch them off.
        constant_rate: modules whose learning rate stays at its peak after warm-up (SimSiam's predictor).
        decays_tokens: whether a transformer's positions and tokens are decayed as weights are.
    """

    branches: dict[str, nn.Module]
    evaluated: str = "online"
    forces: Forces
    constant_rate: tuple[nn.Module, ...] = ()
    decays_tokens: bool = False

    @abstractmethod
    def forward(self, views: list[Tensor]) -> Outputs:
        """Views, each [n, 3, H, W], in; out what the loss needs, each with the images in dimension 1.

        The first output holds the trained embeddings [K, n, d]. Runs under autocast where the recipe asks for it.
        """

    @abstractmethod
    def loss(self, outputs: Outputs, labels: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        """Scalar loss of the whole batch's outputs, without the forces, and its terms before weighting, by name.

        Called outside autocast, with outputs as `forward` made them, joined along dimension 1.
        """

    def embeddings(self, outputs: Outputs) -> Tensor:
        """The particles on which the forces act and whose health is watched: unit vectors [K, n, d]."""
        return normalize(outputs[0].float(), dim=-1)

    def total(
        self, outputs: Outputs, labels: Tensor | None, generator: torch.Generator | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The method's own loss plus the forces, and all terms before weighting.

        `generator` lives on the outputs' device and is seeded anew at every step.
        """
        own, terms = self.loss(outputs, labels)
        if not (self.forces.singular or self.forces.brownian):
            return own, terms
        added, more = dispersion(self.forces, self.embeddings(outputs), generator)
        return own + added, {**terms, **more}

    def weight_decay(self, progress: float, first: float) -> float:
        """Weight decay when this share of training is done: the recipe's, `first`, where a method has no schedule."""
        return first

    def before_step(self, progress: float) -> None:
        """Called before each step with the share of training done before it, for what follows a schedule."""

    def after_backward(self, step: int) -> None:
        """Called before the update of step 0, 1, … with all gradients in place."""

    def after_step(self, progress: float, outputs: Outputs) -> dict[str, float]:
        """Called after each update with the share of training done before it and the whole batch's outputs, detached.

        Returns numbers worth logging.
        """
        return {}


def find_method(name: str) -> ModuleType:
    """The file called `name`.

    Raises:
        UserError: there is none.
    """
    find_presets(name)
    return importlib.import_module(f"{__name__}.{name}")
