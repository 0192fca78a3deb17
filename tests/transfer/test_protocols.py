"""Every value of every classification recipe has a source, and equals what the protocols state."""

import csv
import itertools
from pathlib import Path

import pytest

from transfer.protocol import flatten, recipe_differences
from transfer.task import load_task, task_names

CLASSIFICATION = [name for name in task_names() if not name.startswith(("detection.", "segmentation."))]

STATED = list(csv.DictReader((Path(__file__).parent / "stated" / "classification.csv").open(encoding="utf-8")))
# What every protocol here does, so that no recipe has a field for it.
EVERYWHERE = {"sgd.warmup_epochs": 0.0, "sgd.lr_end": 0.0, "decay_bias": True, "decay_norm": False}


def of_kind(text, like):
    """A value of the file in the type that the recipe has it in."""
    if isinstance(like, bool):
        return {"True": True, "False": False}[text]
    if isinstance(like, tuple):
        words = text.split()
        return tuple(type(like[0])(word) for word in words) if like else tuple(words)
    return type(like)(text)


@pytest.mark.parametrize(("name", "protocol"), sorted({(row["task"], row["protocol"]) for row in STATED}))
def test_values_are_the_stated_ones(name, protocol):
    values = flatten(load_task(name).protocols[protocol])
    stated = {row["value"]: row["stated"] for row in STATED if (row["task"], row["protocol"]) == (name, protocol)}
    for key in set(stated) & set(EVERYWHERE) - set(values):
        assert of_kind(stated.pop(key), EVERYWHERE[key]) == EVERYWHERE[key]
    assert set(stated) <= set(values)
    for key, text in stated.items():
        assert values[key] == pytest.approx(of_kind(text, values[key])), key


def test_every_protocol_is_compared_with_what_is_stated():
    offered = {(name, protocol) for name in CLASSIFICATION for protocol in load_task(name).protocols}
    stated = {(row["task"], row["protocol"]) for row in STATED}
    ours = {("transfer.imagenet_linear", "search")}  # no publication's
    shared = {name for name in CLASSIFICATION if name.startswith("finegrained.") and "inat18" not in name}
    assert {(task, protocol) for task, protocol in offered - stated - ours if task not in shared} == set()


def test_obow_costs_hold_the_stated_ones():
    costs = load_task("transfer.voc07_svm").protocols["obow"].costs
    assert costs[:7] == (0.05, 0.1, 0.3, 0.5, 1, 3, 5)
    assert costs[7:] == tuple(2.0**-power for power in range(4, 20))


def test_penalties_are_45_from_1e_minus_6_to_1e5_evenly_in_the_logarithm():
    penalties = load_task("finegrained.dtd_linear").protocols["ssl-transfer"].penalties
    assert len(penalties) == 45
    ratios = {round(later / earlier, 4) for earlier, later in itertools.pairwise(penalties)}
    assert ratios == {round(10 ** (11 / 44), 4)}
    assert (penalties[0], penalties[-1]) == pytest.approx((1e-6, 1e5))


@pytest.mark.parametrize("name", CLASSIFICATION)
def test_every_value_of_every_protocol_carries_its_source(name):
    task = load_task(name)
    for protocol, recipe in task.protocols.items():
        assert task.published[protocol].sources.keys() == flatten(recipe).keys()
        assert all(source.strip() for source in task.published[protocol].sources.values())


@pytest.mark.parametrize("name", CLASSIFICATION)
def test_presets_say_that_they_are_no_protocol(name):
    task = load_task(name)
    first = next(iter(task.protocols.values()))
    for _, recipe in task.presets.values():
        assert recipe_differences(first, recipe)


def test_voc07_shrinks_before_it_squashes():
    # facebookresearch/vissl resizes the shorter side to 256 first, then both sides to 224: not the same pixels
    assert load_task("transfer.voc07_svm").protocols["vissl"].view.resize == 256
