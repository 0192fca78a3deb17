"""What each method lets one type and what was published for it, one file a method; imports no torch.

A file declares
    `Settings`  a frozen dataclass, shown as options on the command line; `views` and `forces` are among its fields,
    `PROTOCOLS` name → (`Recipe`, `Settings`), by epochs: as published,
    `PRESETS`   the same for smaller hardware, never published: `demo`.

An epoch is as many whole batches as there are; the remaining images are left out, as MoCo, SimSiam, SwAV, W-MSE and
DINO do. Barlow Twins, VICReg and the supervised training have one more step an epoch, of the remaining images; BYOL and
SimCLR let them begin the next epoch. At every step of an epoch so counted the learning rate is the published one.

What the method computes is in the file of the same name in `pretrain.methods`.
"""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

from transfer.runtime.errors import UserError


def method_names() -> list[str]:
    """Names of the files in this folder."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def find_presets(method: str) -> ModuleType:
    """The file called `method`.

    Raises:
        UserError: there is none.
    """
    if method not in method_names():
        raise UserError(f"unknown method {method!r}", todo=f"choose one of {', '.join(method_names())}")
    return importlib.import_module(f"{__name__}.{method}")
