"""A CPU is asked for days of work by mistake: say so with an estimate, before anything is begun."""

from __future__ import annotations

from transfer.checkpoints.speed import known_speed
from transfer.runtime.errors import UserError

# A run on a CPU that would take longer than this is refused unless --allow-slow is given.
PATIENCE_HOURS = 6.0
SURELY_SHORT = 20_000.0  # 10⁹ multiply–accumulates that any CPU does in hours: not worth measuring its speed


def refuse_if_endless(gmacs: float, threads: int, what: str, presets: list[str], allow_slow: bool) -> None:
    """Raise `UserError` if a run of so many `gmacs` would keep this CPU busy for longer than `PATIENCE_HOURS`.

    Args:
        gmacs: 10⁹ multiply–accumulates of the whole run, see `Task.work`.
        threads: of PyTorch.
        what: the run in numbers, for the message.
        presets: to name in the message.
    """
    if allow_slow or gmacs <= SURELY_SHORT:
        return
    speed = known_speed("cpu", threads)
    hours = gmacs / speed.gmacs / 3600
    if hours > PATIENCE_HOURS:
        long = f"{hours / 24:,.0f} days" if hours > 48 else f"{hours:.0f} hours"
        smaller = f"choose a preset for smaller hardware: {' or '.join(f'--preset {name}' for name in presets)}; "
        raise UserError(
            "this recipe is made for GPUs and no GPU is in use",
            found=f"about {long} of training on this CPU ({what}; estimated from {speed.line()})",
            todo=(smaller if presets else "")
            + "or --allow-slow to do it all the same (--threads takes more of its cores)",
        )
