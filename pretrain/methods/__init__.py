"""The pretraining methods, one file each; a file in this folder is found by its name.

A file declares
    `Settings`  a frozen dataclass, shown as options on the command line; `views` is among its fields,
    `PRESETS`   name → (`Recipe`, `Settings`), the published schedules and the small ones,
    `build`     (arch, settings) → `Method`.
"""

from __future__ import annotations

import importlib
import pkgutil
from abc import ABC, abstractmethod
from types import ModuleType

import torch
from torch import Tensor, nn

from transfer.errors import UserError


class Method(nn.Module, ABC):
    """What the training loop asks of a method.

    Attributes:
        branches: name → network whose weights go into the checkpoint; "online" is the one that is trained.
    """

    branches: dict[str, nn.Module]

    @abstractmethod
    def forward(self, views: list[Tensor]) -> tuple[Tensor, ...]:
        """K views [n, 3, H, W] in; out what the loss needs, first the unit embeddings [K, n, d] that are trained.

        Runs under autocast where the recipe asks for it.
        """

    @abstractmethod
    def loss(self, outputs: tuple[Tensor, ...], generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Scalar loss of what `forward` returned, and its terms before weighting, by name.

        Called outside autocast; `generator` lives on the outputs' device and is seeded anew at every step.
        """

    def after_step(self, progress: float) -> dict[str, float]:
        """Called after each optimiser step with the share of training done; returns numbers worth logging."""
        return {}


def method_names() -> list[str]:
    """Names of the files in this folder."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def find_method(name: str) -> ModuleType:
    """The file called `name`.

    Raises:
        UserError: there is none.
    """
    if name not in method_names():
        raise UserError(f"unknown method {name!r}", todo=f"choose one of {', '.join(method_names())}")
    return importlib.import_module(f"{__name__}.{name}")
