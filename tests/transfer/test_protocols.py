"""Every value of every classification recipe has a source, and equals what the protocols state."""

import itertools

import pytest

from transfer.protocol import flatten, recipe_differences
from transfer.task import load_task, task_names

CLASSIFICATION = [name for name in task_names() if not name.startswith(("detection.", "segmentation."))]

# Read in the papers and configurations that the tasks name; "where stated" only.
STATED = {
    ("transfer.imagenet_linear", "vicreg"): {
        "sgd.lr": 0.02, "sgd.schedule": "cosine", "sgd.epochs": 100, "sgd.batch": 256, "sgd.weight_decay": 1e-6,
        "sgd.smallest": 0.2, "sgd.crop": 224, "sgd.resize": 256, "sgd.momentum": 0.9, "sgd.lr_backbone": 0,
    },
    ("transfer.imagenet_linear", "barlowtwins"): {
        "sgd.lr": 0.3, "sgd.schedule": "cosine", "sgd.epochs": 100, "sgd.batch": 256, "sgd.weight_decay": 1e-6,
        "sgd.crop": 224, "sgd.resize": 256,
    },
    ("transfer.imagenet_semi_1", "vicreg"): {
        "sgd.lr_backbone": 0.03, "sgd.lr": 0.08, "sgd.epochs": 20, "sgd.batch": 256, "sgd.weight_decay": 0,
        "sgd.schedule": "cosine",
    },
    ("transfer.imagenet_semi_10", "vicreg"): {
        "sgd.lr_backbone": 0.01, "sgd.lr": 0.1, "sgd.epochs": 20, "sgd.batch": 256, "sgd.weight_decay": 0,
        "sgd.schedule": "cosine",
    },
    **{
        (f"transfer.imagenet_semi_{percent}", "barlowtwins"): {
            "sgd.lr_backbone": 0.002, "sgd.lr": 0.5, "sgd.epochs": 20, "sgd.batch": 256, "sgd.weight_decay": 0,
            "sgd.schedule": "steps", "sgd.milestones": (12, 16), "sgd.factor": 0.2,
        }
        for percent in (1, 10)
    },
    ("transfer.places205_linear", "vicreg"): {
        "sgd.epochs": 28, "sgd.lr": 0.003, "sgd.weight_decay": 1e-4, "sgd.batch": 256, "sgd.schedule": "steps",
        "sgd.milestones": (4, 8, 12), "sgd.factor": 0.1,
    },
    ("transfer.places205_linear", "barlowtwins"): {
        "sgd.epochs": 14, "sgd.lr": 0.01, "sgd.weight_decay": 5e-4, "sgd.momentum": 0.9, "sgd.factor": 0.1,
    },
    ("finegrained.inat18_linear", "vicreg"): {
        "sgd.epochs": 84, "sgd.lr": 0.005, "sgd.milestones": (24, 48, 72), "sgd.factor": 0.1,
        "sgd.weight_decay": 1e-4, "sgd.batch": 256,
    },
    ("finegrained.inat18_linear", "barlowtwins"): {"sgd.epochs": 84, "sgd.lr": 0.01, "sgd.weight_decay": 5e-4},
    ("transfer.voc07_svm", "vissl"): {
        "costs": (0.01, 0.1, 1, 2, 5, 10, 15, 20, 50, 100, 1000), "folds": 3, "positive_weight": 2,
        "negative_weight": 1, "normalise": True, "view.squash": True, "view.crop": 224, "pooling": "grid",
    },
    ("transfer.voc07_svm", "vicreg"): {"view.crop": 224, "view.squash": False},
    ("transfer.voc07_lowshot", "vissl"): {
        "ks": (1, 2, 4, 8, 16, 32, 64, 96), "draws": 5, "view.resize": 0, "view.squash": True, "view.crop": 224,
    },
    ("transfer.knn", "dino"): {"ks": (10, 20, 100, 200), "temperature": 0.07, "view.interpolation": "bicubic"},
    ("finegrained.pets_linear", "ssl-transfer"): {
        "view.resize": 224, "view.crop": 224, "view.interpolation": "bicubic", "holdout": 0.2,
        "metric": "mean_per_class",
    },
    ("finegrained.cars196_finetune", "ssl-transfer"): {
        "sgd.steps": 5000, "sgd.batch": 64, "sgd.nesterov": True, "sgd.momentum": 0.9, "sgd.per_epoch": False,
        "lrs": (0.1, 0.01, 0.001, 0.0001), "decays": (0, 1e-6, 1e-5, 1e-4, 1e-3), "metric": "top1",
    },
}  # fmt: skip


@pytest.mark.parametrize(("name", "protocol"), STATED)
def test_values_are_the_stated_ones(name, protocol):
    values = flatten(load_task(name).protocols[protocol])
    assert {key: values[key] for key in STATED[name, protocol]} == STATED[name, protocol]


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
