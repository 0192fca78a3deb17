"""Few words for what a recipe does otherwise than its protocol, and the names under which things stand in tables."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

DATA_NAMES = Path(__file__).with_name("data_names.csv")
ENGINES = {"detectron2": "Detectron2", "mmdet": "MMDetection", "": ""}
Differences = Sequence[tuple[str, str, str]]  # (what, in the protocol, in the run)

_SIZES = ("detector.test_size", "view.crop", "sgd.crop", "crop", "test_size")
_LENGTHS = (
    ("detector.iterations", "iterations"), ("iterations", "iterations"), ("sgd.steps", "steps"),
    ("sgd.epochs", "epochs"), ("epochs", "epochs"),
)  # fmt: skip
_NECKS = {"c4": "C4", "fpn": "FPN", "pyramid": "FPN", "vitdet": "ViTDet"}


@cache
def _data_names(file: Path = DATA_NAMES) -> dict[str, str]:
    with file.open(encoding="utf-8", newline="") as opened:
        return {row["test_sha256"]: row["name"] for row in csv.DictReader(opened)}


def data_name(test: str, sha256: str) -> str:
    """The name of images in tables: that of `data_names.csv` for this digest, else the record's without "_test"."""
    return _data_names().get(sha256) or re.sub(r"[_-]?(test|val|validation)(20\d\d)?$", "", test) or test


def architecture(arch: str) -> str:
    """ "R50" for resnet50, "R50w2" for resnet50w2; others as they are."""
    found = re.fullmatch(r"resnet(\d+)(w\d+)?", arch)
    return f"R{found[1]}{found[2] or ''}" if found else arch


def own_data(differences: Differences) -> bool:
    """Whether the run is on other images than the protocol's."""
    return any(what == "data" for what, _, _ in differences)


def few(differences: Differences, data: bool = True) -> str:
    """At most four facts: data, model, size of the input, length of the training; then how many more there are.

    Args:
        differences: from the protocol; none gives "".
        data: name the data too, where they are not said elsewhere.
    """
    run = {what: ours for what, _, ours in differences}
    facts, told = [], set()
    if "data" in run:
        told.add("data")
        facts += [_data_words(run["data"])] if data else []
    model = [word for word in (architecture(run.get("architecture", "")), _neck(run)) if word]
    told |= {what for what in run if what == "architecture" or (what.rpartition(".")[2] == "neck" and _neck(run))}
    facts += ["-".join(model)] if model else []
    for what in _SIZES:
        if what in run:
            facts.append(f"{run[what]} px")
            told |= {what, *_same_size(run, what)}
            break
    for what, unit in _LENGTHS:
        if what in run:
            facts.append(f"{run[what]} {unit}")
            told.add(what)
            break
    rest = [what for what in run if what not in told]
    if not facts:
        return pairs(differences)
    return ", ".join(facts) + _more(len(rest))


def pairs(differences: Differences, most: int = 3) -> str:
    """At most three "key value" pairs, then how many more there are."""
    shown = [f"{what.rpartition('.')[2]} {ours}" for what, _, ours in differences[:most]]
    return ", ".join(shown) + _more(len(differences) - len(shown))


def against(differences: Differences, common: Differences) -> str:
    """In what a row is another recipe than its block, in few words; "" if the lists do not tell them apart."""
    theirs = {what: (protocol, ours) for what, protocol, ours in common}
    mine = {what for what, _, _ in differences}
    changed = [each for each in differences if theirs.get(each[0]) != each[1:]]
    changed += [(what, ours, protocol) for what, (protocol, ours) in theirs.items() if what not in mine]
    return pairs(changed)


def _more(count: int) -> str:
    return f" ({count} more difference{'' if count == 1 else 's'})" if count else ""


def _data_words(text: str) -> str:
    """ "BCCD" of "BCCD train → test"."""
    return re.sub(r"\s+\S+ → \S+$", "", text)


def _neck(run: dict[str, str]) -> str:
    neck = next((ours for what, ours in run.items() if what.rpartition(".")[2] == "neck"), "")
    return _NECKS.get(neck.partition("(")[0].casefold(), "")


def _same_size(run: dict[str, str], what: str) -> Iterable[str]:
    """What is said with a crop: images of that very size are not cut at all."""
    resize = what.replace("crop", "resize")
    return [resize] if resize != what and run.get(resize) == run[what] else []
