"""A CPU is asked for days of work by mistake: say so with an estimate, before anything is begun."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from transfer.checkpoints.architectures import gmacs_by_stage
from transfer.runtime.errors import UserError

if TYPE_CHECKING:
    from transfer.checkpoints.backbone import Backbone

# A run on a CPU that would take longer than this is refused unless --allow-slow is given.
PATIENCE_HOURS = 6.0


def measured_gmacs_per_second(backbone: Backbone) -> float:
    """Throughput of this machine's CPU in 10⁹ multiply–accumulates: the best of three forward passes at 224×224."""
    from transfer.checkpoints.verify import torchvision_stages

    image = np.zeros((224, 224, 3), np.uint8)
    model, seconds = backbone.as_torchvision(), []
    for _ in range(3):
        began = time.perf_counter()
        torchvision_stages(backbone, image, model)
        seconds.append(time.perf_counter() - began)
    return sum(gmacs_by_stage(backbone.arch).values()) / min(seconds)


def refuse_if_endless(backbone: Backbone, gmacs: float, what: str, presets: list[str], allow_slow: bool) -> None:
    """Raise `UserError` if a run of so many `gmacs` would keep this CPU busy for longer than `PATIENCE_HOURS`.

    Args:
        gmacs: 10⁹ multiply–accumulates of the whole run.
        what: the run in numbers, for the message.
        presets: to name in the message.
    """
    if allow_slow:
        return
    speed = measured_gmacs_per_second(backbone)
    hours = gmacs / speed / 3600
    if hours > PATIENCE_HOURS:
        long = f"{hours / 24:,.0f} days" if hours > 48 else f"{hours:.0f} hours"
        smaller = f"choose a preset for smaller hardware: {' or '.join(f'--preset {name}' for name in presets)}; "
        raise UserError(
            "this recipe is made for GPUs and no GPU is in use",
            found=f"about {long} of training on this CPU ({what}; estimated from {speed:.0f} GMAC/s measured just now)",
            todo=(smaller if presets else "")
            + "or --allow-slow to do it all the same (--threads takes more of its cores)",
        )
