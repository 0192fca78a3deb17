"""Every probe on features that lie on the device, against the CPU's numbers."""

from __future__ import annotations

import time

import pytest
import torch
from runs import SIZES, run

from transfer.classification.probes.knn import knn, linear_probe
from transfer.classification.probes.logistic import logistic_path
from transfer.classification.probes.svm_costs import svm_one_vs_all
from transfer.classification.sgd.bank import Head, train_on_features
from transfer.classification.sgd.recipe import SgdSchedule
from transfer.datasets.toy import make_toy

pytestmark = [pytest.mark.gpu, pytest.mark.slow]
CLASSES = 10


@pytest.fixture
def rows(pick):
    """Train and test features that overlap a little between classes, and their labels; on the CPU."""
    random = torch.Generator().manual_seed(0)
    count, width = pick(4000, 300), pick(512, 24)
    centres = torch.randn(CLASSES, width, generator=random)
    labels = torch.arange(count) % CLASSES
    features = centres[labels] + 4 * torch.randn(count, width, generator=random)
    half = count // 2
    return features[:half], labels[:half], features[half:], labels[half:]


def both(compute, device, measured):
    """(result on the CPU, result on the device); the seconds of both are kept."""
    found = {}
    for where in (torch.device("cpu"), device):
        began = time.perf_counter()
        found[where] = compute(where)
        if where.type == "cuda":
            torch.cuda.synchronize()
        measured(f"seconds on {where.type}", time.perf_counter() - began, "s")
    return found[torch.device("cpu")], found[device]


def test_knn(rows, device, measured):
    """kNN votes on the device are the CPU's, but for near-ties."""
    train, labels, test, _ = rows

    def compute(where):
        return knn(train.to(where), labels.to(where), test.to(where), classes=CLASSES, k=20)[20].cpu()

    cpu, here = both(compute, device, measured)
    agree = (cpu == here).float().mean().item()
    measured("equal votes", 100 * agree, "%")
    assert agree > 0.99


def test_linear_probe(rows, device, measured):
    """The linear probe chooses the CPU's strength and finds its optimum to 1e-5."""
    train, labels, test, _ = rows

    def compute(where):
        options = {"classes": CLASSES, "strengths": (1e-4, 1e-2)}
        return linear_probe(train.to(where), labels.to(where), test.to(where), **options)

    cpu, here = both(compute, device, measured)
    assert cpu.strength == here.strength
    difference = (cpu.weight - here.weight.cpu()).abs().max() / cpu.weight.abs().max()
    measured("largest difference of a weight, relative", float(difference))
    assert difference < 1e-5


def test_logistic_path(rows, device, measured):
    """Logistic regressions of three penalties (float64) are the CPU's to 1e-5."""
    train, labels, _, _ = rows

    def compute(where):
        return list(logistic_path(train.to(where), labels.to(where), classes=CLASSES, penalties=(1e2, 1.0, 1e-1)))

    cpu, here = both(compute, device, measured)
    worst = max(
        float((a.weight - b.weight.cpu()).abs().max() / a.weight.abs().max()) for a, b in zip(cpu, here, strict=True)
    )
    measured("largest difference of a weight, relative", worst)
    assert worst < 1e-5


def test_svm(rows, device, measured):
    """Support vector machines with their choice of costs (float64) are the CPU's to 1e-6."""
    train, labels, test, _ = rows
    signs = torch.where(torch.nn.functional.one_hot(labels, CLASSES).bool(), 1, -1)

    def compute(where):
        return svm_one_vs_all(
            train.double().to(where), signs.to(where), test.double().to(where), costs=(0.1, 1.0, 10.0)
        )

    cpu, here = both(compute, device, measured)
    assert list(cpu.choice.costs) == list(here.choice.costs)
    difference = (cpu.decisions - here.decisions.cpu()).abs().max()
    measured("largest difference of a decision", float(difference))
    assert difference < 1e-6


def test_linear_classifiers_by_sgd(rows, device, measured):
    """A bank of linear classifiers after 40 steps of SGD on features is the CPU's to 1e-3."""
    train, labels, _, _ = rows
    schedule = SgdSchedule(batch=64, steps=40, momentum=0.9, schedule="cosine")
    grid = [Head(0.1, 0.0, "avg"), Head(0.01, 1e-4, "avg")]

    def compute(where):
        return train_on_features({"avg": train.to(where)}, labels, grid, schedule, classes=CLASSES, device=where)

    cpu, here = both(compute, device, measured)
    worst = max(
        float((cpu.classifier(place)[0] - here.classifier(place)[0].cpu()).abs().max()) for place in range(len(grid))
    )
    measured("largest difference of a weight", worst)
    assert worst < 1e-3


TINY_VIT = "vit_64x2_patch8_32"


@pytest.mark.parametrize("mode", ["linear", "finetune", "by layers"])
def test_sgd_on_crops(mode, device, pick, tmp_path, measured, peak):
    """Linear classifiers, fine-tuning, a ViT by layers, on random crops (pinned memory, workers): ends with numbers."""
    make_toy(tmp_path / "toy", sizes=SIZES)
    root = tmp_path / "toy" / "images"
    side = pick("224", "32")
    resnet, vit = pick("random:resnet50", "random:resnet18"), pick("random:vit_base_patch16_224", f"random:{TINY_VIT}")
    task, checkpoint, own, length = {
        "linear": ("transfer.imagenet_linear", resnet, "sgd", ("--sgd.epochs", "2", "--lrs", "0.1")),
        "finetune": ("finegrained.own_finetune", resnet, "sgd", ("--sgd.steps", "4", "--lrs", "0.01", "--decays", "0")),
        "by layers": (
            *("transfer.imagenet_finetune", vit, "tuning"),
            ("--protocol", "mae_base", "--tuning.epochs", "2", "--tuning.warmup-epochs", "1"),
        ),
    }[mode]
    held = () if mode == "by layers" else ("--holdout", "0.25")
    typed = [
        *(task, checkpoint, "--image-folder", str(root), *held),
        *(f"--{own}.crop", side, f"--{own}.resize", side, f"--{own}.batch", "16", *length),
    ]
    status, found = run(device, tmp_path, *typed)
    assert status == 0
    assert found.metrics
    measured("seconds a step", found.seconds_an_iteration, "s")
    peak()
