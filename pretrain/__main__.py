"""Command line: `python -m pretrain DATA …` trains; `plot` draws the curves of a run, `ablate` runs a grid."""

from __future__ import annotations

from transfer.runtime.interrupts import GOES_ON, on_interrupt

if __name__ == "__main__":
    # before the imports that take long
    on_interrupt(GOES_ON)

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar, get_args

import tyro
from tyro.conf import OmitArgPrefixes, Positional

from pretrain.machine import Machine
from pretrain.presets import find_presets, method_names
from pretrain.recipe import TRANSFORMERS, Arch, Recipe, for_transformers
from transfer.runtime.command import Debug, answer
from transfer.runtime.errors import UserError
from transfer.runtime.shared_memory import demand_shared_memory

logger = logging.getLogger("pretrain")
S = TypeVar("S")
DESCRIPTION = """Pretrain a ResNet or a vision transformer on images, without labels (all methods but supervised).

DATA is a folder of images, a list file (.txt), tar shards (a .tar, a folder of them, or 'train-{000..146}.tar') or a
Hugging Face dataset on disk. A run that was interrupted goes on when the same command is typed again; a finished one
is found and not redone. Protocols, named by their epochs, are the methods' published schedules (large batches, for
GPUs); --preset demo is NOT a protocol: a minute or two on two CPU cores, to see that everything works. Options change
it; the defaults shown are those of the method and of the protocol or preset on this command line. Every method
trains every --arch. The protocols are those of ResNets but for dino's: for a transformer give an optimiser and rates of
your own (--optimizer adamw …); a preset does so itself.

  python -m pretrain IMAGES --arch resnet18 --preset demo --out runs/pretrain/first
  python -m pretrain IMAGES --arch vit_tiny --method dino --preset demo --crop 128 --out runs/pretrain/vit
  torchrun --nproc-per-node 8 -m pretrain IMAGES --method byol --precision bf16 --out runs/pretrain/byol
  python -m pretrain plot runs/pretrain/first
  python -m pretrain ablate --help"""


@dataclass(frozen=True)
class Pretraining(Debug, Generic[S]):
    """Options.

    Attributes:
        data: images; see above.
        recipe: what is trained.
        settings: options of the method.
        method: the pretraining method.
        protocol: epochs of a published schedule.
        preset: for smaller hardware instead: demo.
        root: folder in which the paths of a list file begin; default: the list's own.
        out: folder for checkpoint and curves. Default: runs/pretrain/METHOD-ARCH-PROTOCOL.
        machine: how this machine does it.
        overwrite: start anew; the checkpoint in --out is deleted after the first step.
    """

    data: Positional[Path]
    recipe: OmitArgPrefixes[Recipe]
    settings: OmitArgPrefixes[S]
    machine: OmitArgPrefixes[Machine] = field(default_factory=Machine)
    method: str = "msbreg"
    protocol: str = "100"
    preset: str | None = None
    root: Path | None = None
    out: Path | None = None
    overwrite: bool = False


@dataclass(frozen=True)
class PlotCurves(Debug):
    """Draw the curves of a run."""

    run: Positional[Path]
    """the --out folder of a run."""


def parse(arguments: Sequence[str]) -> Pretraining[Any]:
    """Read the command line; what sets other defaults is looked at first: method, protocol, preset, transformer or not.

    Raises:
        UserError: unknown method, protocol, preset or architecture.
    """
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--method", default="msbreg")
    early.add_argument("--protocol")
    early.add_argument("--preset")
    early.add_argument("--arch")
    chosen, _ = early.parse_known_args(arguments)
    module = find_presets(chosen.method)
    protocols, presets = module.PROTOCOLS, module.PRESETS
    preset, protocol = chosen.preset, chosen.protocol or next(iter(protocols))
    if protocol not in protocols:
        raise UserError(
            f"unknown protocol {protocol!r} of {chosen.method}", todo=f"choose one of {', '.join(protocols)}"
        )
    if preset is not None and preset not in {**presets, **protocols}:
        raise UserError(f"unknown preset {preset!r} of {chosen.method}", todo=f"choose one of {', '.join(presets)}")
    if chosen.arch not in (None, *get_args(Arch)):
        raise UserError(f"unknown architecture {chosen.arch!r}", todo=f"choose one of {', '.join(get_args(Arch))}")
    recipe, settings = beginning(chosen.method, protocol, preset, chosen.arch)
    # A demo has few steps: every one is worth a point of the curve. Without workers, because on two cores they would
    # take turns with the threads that train (decoding and augmenting is a tenth of the time).
    machine = Machine(workers=0, log_every=1, save_every=20) if preset in presets else Machine()
    shape: Any = Pretraining
    command: Pretraining[Any] = tyro.cli(
        shape[type(settings)],
        args=list(arguments),
        default=Pretraining(
            data=tyro.MISSING,
            recipe=recipe,
            settings=settings,
            machine=machine,
            method=chosen.method,
            protocol=protocol,
            preset=preset,
        ),
        prog="python -m pretrain",
        description=f"{DESCRIPTION}\n\nMethods: {', '.join(method_names())}. Protocols of {chosen.method}:"
        f" {', '.join(protocols)}; presets: {', '.join(presets)}.\n\nAbout {chosen.method}: {module.__doc__}",
    )
    return command


def beginning(method: str, protocol: str, preset: str | None, arch: str | None = None) -> tuple[Any, Any]:
    """Recipe and settings before options change them: a preset's, or a protocol's.

    `--preset 100` was how a protocol was asked for once, and still is understood. A preset of a ResNet takes another
    optimiser where `arch` is a transformer; a protocol stays as it was published.
    """
    module = find_presets(method)
    recipe, settings = {**module.PROTOCOLS, **module.PRESETS}[preset or protocol]
    if preset in module.PRESETS and arch in TRANSFORMERS and recipe.arch not in TRANSFORMERS:
        recipe = for_transformers(recipe)
    return recipe, settings


def run(arguments: Sequence[str]) -> int:
    """Do what the command line says.

    Raises:
        UserError: bad input.
    """
    if arguments[:1] == ["plot"]:
        from pretrain.plot import plot

        print(plot(tyro.cli(PlotCurves, args=arguments[1:], prog="python -m pretrain plot").run))
        return 0
    if arguments[:1] == ["ablate"]:
        from pretrain.ablate import main as ablate

        for written in ablate(arguments[1:]):
            print(written)
        return 0
    command = parse(arguments)
    from tqdm.contrib.logging import logging_redirect_tqdm

    from pretrain.checkpoint import differences
    from pretrain.train import pretrain  # torch, whose import takes seconds: not for --help

    begun = command.preset or command.protocol
    out = command.out or Path("runs", "pretrain", f"{command.method}-{command.recipe.arch}-{begun}")
    recipe, settings = beginning(command.method, command.protocol, command.preset, command.recipe.arch)
    published = {"recipe": asdict(recipe), "settings": asdict(settings)}
    wanted = {"recipe": asdict(command.recipe), "settings": asdict(command.settings)}
    if os.environ.get("RANK", "0") == "0":
        for line in differences(published, wanted, f"in {'preset' if command.preset else 'protocol'} {begun}"):
            logger.info("%s", line)
        if command.recipe.arch in TRANSFORMERS and command.recipe.optimizer == recipe.optimizer != "adamw":
            words = "%s of %s is a ResNet's recipe: a transformer wants --optimizer adamw, and its own --lr"
            logger.warning(words, begun, command.method)
    demand_shared_memory(command.machine.workers)
    with logging_redirect_tqdm():
        path = pretrain(
            command.data,
            out,
            command.method,
            command.recipe,
            command.settings,
            command.machine,
            command.overwrite,
            command.root,
        )
    if os.environ.get("RANK", "0") == "0":
        print(path)
    return 0


def main(arguments: Sequence[str]) -> int:
    """Exit statuses: see `answer`."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    rank = os.environ.get("RANK", "0")
    lead = "error: " if rank == "0" else f"process {rank}: error: "
    interrupted = GOES_ON.replace("again", "without --overwrite") if "--overwrite" in arguments else GOES_ON
    return answer(lambda: run(arguments), "--debug" in arguments, interrupted, lead)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
