"""BYOL: an online network predicts what a slow copy of it makes of another view.

Sources, options, published schedules and what differs from them: `pretrain.presets.byol`.
"""

from __future__ import annotations

from torch import Tensor

from pretrain.methods import Outputs, msbreg
from pretrain.methods.msbreg import OnlineAndTarget
from pretrain.presets.byol import PRESETS as PRESETS
from pretrain.presets.byol import PROTOCOLS as PROTOCOLS
from pretrain.presets.byol import Settings as Settings
from pretrain.recipe import EncoderSpec
from transfer.runtime.errors import UserError


class BYOL(OnlineAndTarget):
    """MSBReg's networks with two views and the symmetric loss."""

    def loss(self, outputs: Outputs, labels: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean over images of ‖z_1 − t_2‖² + ‖z_2 − t_1‖², 0 to 8 (equation 2 and its mirror image).

        The centroid of "the other view" is that view, so this is twice MSBReg's mean over the two directions.
        """
        half, _ = super().loss(outputs, labels)
        both = 2 * half
        return both, {"regression": both}


def build(network: EncoderSpec, settings: Settings) -> BYOL:
    """The method for one encoder.

    Raises:
        UserError: settings that make no sense.
    """
    if settings.views != 2:
        raise UserError(
            f"--views is {settings.views}", todo="give --views 2: BYOL compares two (for more: --method msbreg)"
        )
    same = msbreg.Settings(2, "others", settings.forces, settings.hidden, settings.dimensions, settings.ema)
    msbreg.check(same)
    return BYOL(network, same)
