"""Command line of the spine: python -m transfer VERB …; `HELP` lists the verbs."""

from __future__ import annotations

import sys

from transfer.runtime.interrupts import GOES_ON, NOTHING_CHANGED, on_interrupt

if __name__ == "__main__":
    # before the imports that take long
    on_interrupt(GOES_ON if sys.argv[1:2] in (["run"], ["suite"], ["reproduce"], ["cache"]) else NOTHING_CHANGED)

import importlib
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import Positional

from transfer.runtime.command import Debug, answer
from transfer.runtime.errors import UserError, printable
from transfer.runtime.logs import say_from

HELP = """usage: python -m transfer VERB …

verbs:
  inspect FILE                      what a checkpoint is: format, architecture, tensors used and dropped
  convert FILE --to WHOM -o OUT     write it for torchvision, timm, huggingface, detectron2, mmdet or as safetensors
  formats                           list the checkpoint formats that are read, and their branches
  tasks [NAME …]                    list all tasks, or the protocols and presets of some
  data [NAME …]                     list the classification sets: which are there, how to get the others
  recipe TASK                       every value of a task's protocol, and where it was read
  run TASK FILE …                   run a task; `python -m transfer run TASK --help` lists its options
  suite FILE … --suite NAME         many tasks, checkpoints and seeds at once; `suite status` says how it stands
  cache [prune]                     list the features that runs keep, or remove some
  reproduce RUN                     the line that repeats a run, if code, data and checkpoint are still the same
  score DETECTIONS.json …           AP of detections that were made elsewhere, without training
  doctor                            what of this machine a run would stumble over, and what to type
  toy FOLDER                        write small synthetic data sets for trying things out

Every verb has --help. --debug shows the traceback of an error."""


@dataclass(frozen=True, kw_only=True)
class _OfFile(Debug):
    file: Positional[Path]
    """the checkpoint."""
    format: str | None = None
    """force a format instead of recognising it."""
    branch: str | None = None
    """which network of the file."""
    prefix: str | None = None
    """take the network whose names begin with this, and drop everything else."""
    allow_half: bool = False
    """accept half precision."""

    def reading(self) -> dict[str, Any]:
        """How the file is to be read."""
        return {name: getattr(self, name) for name in ("format", "branch", "prefix", "allow_half")}


@dataclass(frozen=True, kw_only=True)
class Inspect(_OfFile):
    """Say what a checkpoint file is."""

    reference: Path | None = None
    """a file of the same network whose channel order is known; tells whether red and blue are exchanged."""
    all: bool = False
    """say of every format why it does not recognise the file."""


@dataclass(frozen=True, kw_only=True)
class Convert(_OfFile):
    """Write a checkpoint's backbone for another library."""

    to: Literal["torchvision", "timm", "huggingface", "detectron2", "mmdet", "safetensors"]
    """whose layout to write."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """the file to write (-o)."""


@dataclass(frozen=True)
class Toy(Debug):
    """Write small synthetic data sets: VOC layout, COCO layout with masks, and a classification folder.

    Attributes:
        folder: where to.
        seed: equal seeds give equal bytes.
        easy: smaller pictures of three classes that colour and shape tell apart: a detector learns them in a minute.
        overwrite: replace the folder if it is there.
    """

    folder: Positional[Path]
    seed: int = 0
    easy: bool = False
    overwrite: bool = False


def inspect(arguments: Sequence[str]) -> int:
    """`inspect FILE`; exit status 1 if there is no backbone in it."""
    options = tyro.cli(Inspect, args=arguments, prog="python -m transfer inspect")
    from transfer.checkpoints.inspect import examine

    _one_thread()
    found = examine(options.file, **options.reading(), reference=options.reference, every=options.all)
    print(printable(found.text))
    return 0 if found.complete else 1


def convert(arguments: Sequence[str]) -> int:
    """`convert FILE --to WHOM -o OUT`."""
    options = tyro.cli(Convert, args=arguments, prog="python -m transfer convert")
    from transfer.checkpoints.write import convert as write

    _one_thread()
    print(printable(write(options.file, options.to, options.out, **options.reading())))
    return 0


def _one_thread() -> None:
    """Looking at tensors once gains nothing from more threads, and on a busy machine they wait for each other."""
    import torch

    torch.set_num_threads(1)


def formats(arguments: Sequence[str]) -> int:
    """`formats`."""
    if arguments and arguments[0] in ("-h", "--help"):
        print("usage: python -m transfer formats\n\nlist the checkpoint formats that are read, and their branches")
        return 0
    from transfer.checkpoints.families import families
    from transfer.checkpoints.formats import all_formats, title_of

    order = sorted(families().values(), key=lambda family: family.name != "resnet")
    groups = {family.title: [family.name] for family in order} | {"recognised and refused": []}
    for title, wanted in groups.items():
        print(f"{title}:")
        for name, form in all_formats().items():
            if set(wanted) & set(form.families) or not (wanted or form.families):
                branches = f"  [{', '.join(form.branches)}]" if form.branches else ""
                print(f"  {name:<20}{title_of(name)}{branches}")
        print()
    print("in brackets: what --branch takes; the first of them that a file holds is the default")
    return 0


def tasks(arguments: Sequence[str]) -> int:
    """`tasks [NAME …]`."""
    from transfer.task import load_task, task_names

    if arguments and arguments[0] in ("-h", "--help"):
        print("usage: python -m transfer tasks [NAME …]\n\nlist all tasks, or the protocols and presets of some")
        return 0
    names = [name for name in arguments if name != "--debug"]
    if not names:
        for name in task_names():
            task = load_task(name)
            print(f"{name:<34}{task.primary:<16}{task.title}")
        print(
            "\nbehind each name its primary metric\n"
            "`… tasks NAME`: protocols, data, hours and presets; `… recipe NAME`: every value, and where it was read"
        )
    for name in names:
        task = load_task(name)
        first, protocol = next(iter(task.published.items()))
        origins = " + ".join(f"{place} ({count} values)" for place, count in protocol.origins.items())
        print(f"{name}  (version {task.version})\n    {task.title}")
        print(f"    protocols: {', '.join(task.protocols)}; primary metric: {task.primary}")
        print(f"    sources:   {first} from {origins}")
        print(f"    engines:   {', '.join(task.engines) or 'none needed'}")
        print(f"    data:      {', '.join(task.needs)} ({task.how})" if task.needs else "    data:      your own")
        print(f"    hours:     {task.expected(protocol.recipe) or 'not known: no source of ours tells them'}")
        for preset, (line, _) in task.presets.items():
            print(f"    --preset {preset}: {line}")
    return 0


def data(arguments: Sequence[str]) -> int:
    """`data [NAME …]`."""
    from transfer.datasets.labels.command import data_command

    print(printable(data_command(arguments)))
    return 0


def recipe(arguments: Sequence[str]) -> int:
    """`recipe TASK`."""
    from transfer.cli import recipe_command

    print(printable(recipe_command(arguments)))
    return 0


def run(arguments: Sequence[str]) -> int:
    """`run TASK FILE …`."""
    from transfer.cli import run_command

    return run_command(arguments)


def suite(arguments: Sequence[str]) -> int:
    """`suite FILE … --suite NAME`."""
    from transfer.suites.command import suite_command

    return suite_command(arguments)


def reproduce(arguments: Sequence[str]) -> int:
    """`reproduce RUN`; exit status 1 if the repetition failed."""
    from transfer.cli import run_command
    from transfer.record import read_record
    from transfer.reproduce import compared, reproduce_command

    again = reproduce_command(arguments)
    print(printable(again.line), flush=True)
    if not again.go:
        return 0
    status = run_command(again.words)
    for line in compared(again.record, read_record(again.path)):
        print(printable(line))
    return status


def doctor(arguments: Sequence[str]) -> int:
    """`doctor`."""
    from transfer.doctor import doctor_command

    listing, status = doctor_command(arguments)
    print(printable(listing))
    return status


def cache(arguments: Sequence[str]) -> int:
    """`cache [prune]`."""
    # A verb of a room above this one, found by its name as tasks are.
    print(printable(importlib.import_module("transfer.classification.cache_command").cache_command(arguments)))
    return 0


def score(arguments: Sequence[str]) -> int:
    """`score DETECTIONS.json …`."""
    # as `cache`
    print(printable(importlib.import_module("detection.score.command").score_command(arguments)))
    return 0


def toy(arguments: Sequence[str]) -> int:
    """`toy FOLDER`."""
    from transfer.datasets.toy import COLOURED, EASY_SIZES, TEXTURED, ToySizes, make_toy

    options = tyro.cli(Toy, args=arguments, prog="python -m transfer toy")
    sizes, look = (EASY_SIZES, COLOURED) if options.easy else (ToySizes(), TEXTURED)
    print(make_toy(options.folder, options.seed, options.overwrite, sizes, look))
    return 0


VERBS = {
    "inspect": inspect,
    "convert": convert,
    "formats": formats,
    "tasks": tasks,
    "data": data,
    "recipe": recipe,
    "run": run,
    "suite": suite,
    "cache": cache,
    "reproduce": reproduce,
    "score": score,
    "doctor": doctor,
    "toy": toy,
}


def main(arguments: Sequence[str]) -> int:
    """Run one verb; exit statuses: see `answer`."""
    debug = "--debug" in arguments
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(message)s", force=True)
    say_from(logging.DEBUG if debug else logging.INFO)
    interrupted = GOES_ON if arguments[:1] in (["run"], ["suite"], ["reproduce"], ["cache"]) else NOTHING_CHANGED
    # Of several processes one says what is wrong.
    lead = "error: " if os.environ.get("RANK", "0") == "0" else None
    return answer(lambda: _do(arguments), debug, interrupted, lead)


def _do(arguments: Sequence[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(HELP, flush=True)
        return 0 if arguments else 2
    if arguments[0] not in VERBS:
        raise UserError(f"unknown verb {arguments[0]!r}", todo=f"one of {', '.join(VERBS)}")
    return VERBS[arguments[0]](arguments[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
