"""Whose checkpoint and whose protocol: all under one to compare them, each under its own to reproduce a number."""

from __future__ import annotations

from collections.abc import Mapping

from transfer.runtime.errors import UserError

AUTO = "auto"
# Format of a checkpoint (`transfer/checkpoints/formats/`) → what the protocols of its authors are called.
AUTHORS: Mapping[str, str] = {
    "barlow_twins": "barlowtwins",
    "byol_deepmind": "byol",
    "dino": "dino",
    "moco": "moco",
    "obow": "obow",
    "simclr_v2": "simclr",
    "simsiam": "simsiam",
    "swav": "swav",
    "vicreg": "vicreg",
    "vissl": "vissl",
}


def own_protocol(format: str, protocols: Mapping[str, object]) -> str | None:
    """The protocol of the authors of a checkpoint of this format; None if the task offers none."""
    name = AUTHORS.get(format)
    return name if name in protocols else None


def protocol_of_all(formats: Mapping[str, str], protocols: Mapping[str, object]) -> str:
    """What `--protocol auto` means for checkpoints (name → format).

    Raises:
        UserError: a checkpoint whose authors' protocol is not offered, or checkpoints of several authors.
    """
    own = {name: own_protocol(format, protocols) for name, format in formats.items()}
    unknown = [f"{name} ({formats[name]})" for name, found in own.items() if found is None]
    if unknown:
        raise UserError(
            "--protocol auto: this task has no protocol of the authors of " + ", ".join(unknown),
            todo=f"choose one of {', '.join(protocols)}",
        )
    names = sorted({found for found in own.values() if found is not None})
    if len(names) > 1:
        raise UserError(
            "--protocol auto: these checkpoints have different authors, and numbers of different protocols are no "
            "comparison",
            found=", ".join(f"{name}: {found}" for name, found in own.items()),
            todo="give one command for each, or one protocol for all",
        )
    return names[0]


def advice(format: str, protocol: str, protocols: Mapping[str, object]) -> str:
    """A line for a checkpoint that its authors measured otherwise; "" if they did not, or nothing is known."""
    own = own_protocol(format, protocols)
    if own is None or own == protocol:
        return ""
    return (
        f"protocol {protocol}; the authors of this checkpoint ({format}) reported theirs, {own}: "
        f"--protocol {own} is for reproducing their number"
    )
