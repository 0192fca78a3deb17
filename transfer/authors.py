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


# The same of vision transformers, whose authors have a protocol for each size: linear, fine-tuned.
AUTHORS_OF_VITS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "dino": {"small": ("dino_vit_small", "dino"), "base": ("dino_vit_base", "dino")},
    "dinov2": dict.fromkeys(("small", "base", "large", "giant2"), ("dinov2",)),
    "ibot": {"small": ("ibot_vit_small",), "base": ("ibot_vit_base",), "large": ("ibot_vit_base",)},
    "mae": {"base": ("mae", "mae_base"), "large": ("mae_large",), "huge": ("mae_huge", "mae_large")},
    "moco_v3": {"small": ("moco_v3",), "base": ("moco_v3",)},
}


def own_protocol(format: str, protocols: Mapping[str, object], arch: str = "resnet50") -> str | None:
    """The protocol of the authors of a checkpoint of this format and architecture; None if the task offers none."""
    family, _, rest = arch.partition("_")
    names = AUTHORS_OF_VITS.get(format, {}).get(rest.partition("_")[0], ()) if family == "vit" else ()
    if family != "vit" and format in AUTHORS:
        names = (AUTHORS[format],)
    return next((name for name in names if name in protocols), None)


def protocol_of_all(
    formats: Mapping[str, str], protocols: Mapping[str, object], archs: Mapping[str, str] | None = None
) -> str:
    """What `--protocol auto` means for checkpoints (name → format, and name → architecture).

    Raises:
        UserError: a checkpoint whose authors' protocol is not offered, or checkpoints of several authors.
    """
    known = archs or dict.fromkeys(formats, "resnet50")
    own = {name: own_protocol(format, protocols, known[name]) for name, format in formats.items()}
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


def advice(format: str, protocol: str, protocols: Mapping[str, object], arch: str = "resnet50") -> str:
    """A line for a checkpoint that its authors measured otherwise; "" if they did not, or nothing is known."""
    own = own_protocol(format, protocols, arch)
    if own is None or own == protocol:
        return ""
    return (
        f"protocol {protocol}; the authors of this checkpoint ({format}) reported theirs, {own}: "
        f"--protocol {own} is for reproducing their number"
    )
