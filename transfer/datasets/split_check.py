"""The splits of a set beside each other: what only one of them has, and what is odd. For every task alike."""

from __future__ import annotations

import logging
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from transfer.datasets.wording import counted, few, few_lines
from transfer.runtime.errors import DataError

logger = logging.getLogger(__name__)

FEWER = 10  # times: so many fewer images to train on than in another split are odd
APART = 2.0  # times: so far apart are medians that are odd
RESIZED = 1.1  # times: medians of ranges that do not even meet
SHARE_APART = 0.25  # of all objects
CLASS_APART = 5.0  # times
SURE = 4.0  # standard errors: of a difference that is said
ENOUGH = 5  # values of which a median is taken

PARTS = re.compile(r"[\s_\-.,:;'’\"/()]+")


@dataclass(frozen=True, eq=False)
class SplitSummary:
    """What is compared of a split.

    Attributes:
        name: of set and split.
        counted_in: what a class has several of: "image" or "object".
        images: how many.
        classes: class → how many images or objects of it count: in training those to learn from, elsewhere those that
            the number is made of.
        values: a quantity in words → its values, in any order; of all images or objects, or of a sample.
        shares: what some images or objects are, in words → (how many are, of how many).
    """

    name: str
    counted_in: str
    images: int
    classes: Mapping[str, int]
    values: Mapping[str, NDArray[np.float64]]
    shares: Mapping[str, tuple[int, int]]

    def present(self) -> list[str]:
        """Classes that have something here."""
        return [name for name, count in self.classes.items() if count]

    def line(self) -> str:
        """The split in one line."""
        facts = [counted(self.images, "image", "images")]
        if self.counted_in != "image":
            facts.append(counted(sum(self.classes.values()), self.counted_in, f"{self.counted_in}s"))
        facts.append(f"{len(self.present())} of {counted(len(self.classes), 'class', 'classes')}")
        facts += [f"{what} {_range(values)}" for what, values in self.values.items() if len(values)]
        facts += [f"{count:,} of {of:,} {what}" for what, (count, of) in self.shares.items() if count]
        return f"{self.name}: {', '.join(facts)}"


def compare(train: SplitSummary, others: Sequence[SplitSummary]) -> tuple[str, ...]:
    """Log every split in one line and what is odd as warnings; the latter are returned, for the record.

    Raises:
        DataError: another split has a class that `train` has nothing of.
    """
    for other in others:
        refuse_untrained(other.present(), train.present(), other.name, train.name, train.counted_in)
    for split in (train, *others):
        logger.info("%s", split.line())
    notes = (*_twins([train, *others]), *(line for other in others for line in _odd(train, other)))
    for note in notes:
        logger.warning("%s", note)
    return notes


def refuse_untrained(found: Collection[str], trained: Collection[str], where: str, train: str, unit: str) -> None:
    """Refuse classes that nothing could be learnt of: they would enter the mean with what was guessed.

    Args:
        found: classes of another split.
        trained: those of the training split.
        where, train: the two splits, in words.
        unit: "image" or "object".

    Raises:
        DataError: some are not among `trained`; with the spelling that is probably meant.
    """
    unknown = sorted(set(found) - set(trained))
    if unknown:
        raise DataError(
            f"{counted(len(unknown), 'class', 'classes')} of {where} {'has' if len(unknown) == 1 else 'have'} "
            f"no training {unit}",
            found=few_lines(spelled(unknown, trained)),
            todo=f"add them to {train}, take them out, or correct their spelling",
        )


def spelled(names: Sequence[str], known: Collection[str]) -> list[str]:
    """Each name, with those of `known` that differ in their spelling alone."""
    likely: dict[str, list[str]] = {}
    for name in sorted(known):
        likely.setdefault(spelling(name), []).append(name)
    return [
        f"{name!r}, probably {' or '.join(map(repr, likely[spelling(name)]))}" if spelling(name) in likely else name
        for name in names
    ]


def spelling(name: str) -> str:
    """What two spellings of one name have in common: no case, spaces, punctuation, form of letters or plural.

    Numbers are as they are: -1 is not 1, nor 1.5 15.
    """
    text = unicodedata.normalize("NFKC", name).casefold().strip()
    try:
        return str(float(text))
    except ValueError:
        parts = [part for part in PARTS.split(text) if part]
    if not parts:
        return text
    parts[-1] = _singular(parts[-1])
    joined = parts[0]
    for part in parts[1:]:
        joined += ("_" if joined[-1].isdigit() and part[0].isdigit() else "") + part
    return joined


def _singular(word: str) -> str:
    for plural, one in (("ies", "y"), ("sses", "ss"), ("shes", "sh"), ("ches", "ch"), ("xes", "x"), ("s", "")):
        if word.endswith(plural) and len(word) > len(plural) + 1:
            return word if word.endswith(("ss", "us", "is")) else word.removesuffix(plural) + one
    return word


def _twins(splits: Sequence[SplitSummary]) -> Iterator[str]:
    """Classes that are one class under two names, probably."""
    totals: Counter[str] = Counter()
    for split in splits:
        totals.update(split.classes)
    alike: dict[str, list[str]] = {}
    for name in sorted(name for name, count in totals.items() if count):
        alike.setdefault(spelling(name), []).append(name)
    unit = splits[0].counted_in
    for names in alike.values():
        if len(names) > 1:
            shown = " and ".join(f"{name!r} ({counted(totals[name], unit, f'{unit}s')})" for name in names)
            yield f"the classes {shown} differ in spelling alone: one class under {len(names)} names?"


def _odd(train: SplitSummary, other: SplitSummary) -> Iterator[str]:
    both = f"{train.name} and {other.name}"
    bare = [name for name in train.present() if not other.classes.get(name)]
    if bare:
        alike = few(spelled(bare, set(other.present())), 10)
        yield (
            f"{len(bare)} of {counted(len(train.present()), 'class', 'classes')} with training {train.counted_in}s "
            f"{'has' if len(bare) == 1 else 'have'} no {train.counted_in} in {other.name}: {alike}"
        )
    if train.images * FEWER <= other.images:
        yield f"{train.name} has {train.images:,} images, {other.name} {other.images:,}: exchanged?"
    shifted = [
        f"{name!r} {100 * here:.2g} % and {100 * there:.2g} %"
        for name, here, there in _shifted(train.classes, other.classes)
    ]
    if shifted:
        number = counted(len(shifted), "class", "classes")
        yield f"{both} differ in the share of {number} in the {train.counted_in}s: {few(shifted, 3)}"
    for what in train.values:
        if what in other.values and _apart(train.values[what], other.values[what]):
            yield f"{both} differ in {what}: {_range(train.values[what])} and {_range(other.values[what])}"
    for what, (here, of_here) in train.shares.items():
        there, of_there = other.shares.get(what, (0, 0))
        if _differ(here, of_here, there, of_there) and abs(here / of_here - there / of_there) > SHARE_APART:
            yield f"{both} differ: {here:,} of {of_here:,} and {there:,} of {of_there:,} are {what}"


def _shifted(train: Mapping[str, int], other: Mapping[str, int]) -> Iterator[tuple[str, float, float]]:
    of_train, of_other = sum(train.values()), sum(other.values())
    for name, here in train.items():
        there = other.get(name, 0)
        if here and there and _differ(here, of_train, there, of_other):
            ratio = (here / of_train) / (there / of_other)
            if not 1 / CLASS_APART < ratio < CLASS_APART:
                yield name, here / of_train, there / of_other


def _differ(one: int, of_one: int, two: int, of_two: int) -> bool:
    """Whether two shares differ by more than chance, if images were drawn."""
    if min(of_one, of_two) < ENOUGH:
        return False
    pooled = (one + two) / (of_one + of_two)
    error = np.sqrt(pooled * (1 - pooled) * (1 / of_one + 1 / of_two))
    return bool(abs(one / of_one - two / of_two) > SURE * error)


def _apart(one: NDArray[np.float64], two: NDArray[np.float64]) -> bool:
    if min(len(one), len(two)) < ENOUGH:
        return False
    low, high = sorted((float(np.median(one)), float(np.median(two))))
    disjoint = one.max() < two.min() or two.max() < one.min()
    return high > low * (RESIZED if disjoint else APART) if low > 0 else high > 0


def _range(values: NDArray[np.float64]) -> str:
    least, middle, most = float(values.min()), float(np.median(values)), float(values.max())
    return f"{least:.4g}" if least == most else f"{least:.4g} to {most:.4g} (median {middle:.4g})"
