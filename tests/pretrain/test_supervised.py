"""Supervised training, the yardstick."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from small_methods import LABELS, make, numbers, some_views

from pretrain.methods import supervised
from pretrain.recipe import EncoderSpec
from transfer.runtime.errors import UserError


def test_supervised_is_cross_entropy(tiny: None) -> None:
    method = make("supervised", views=2)
    logits = numbers(2, 4, 3)
    labels = [2, 0, 1, 1]
    expected = 0.0
    for view in logits.numpy():
        for row, label in zip(view, labels, strict=True):
            expected += (math.log(np.exp(row).sum()) - row[label]) / 8
    found, _ = method.loss((torch.zeros(2, 4, 8), logits), torch.tensor(labels))
    assert found.item() == pytest.approx(expected, rel=1e-10)


def test_supervised_chance_is_log_of_the_classes(tiny: None) -> None:
    loss, _ = make("supervised").loss((torch.zeros(1, 8, 8), torch.zeros(1, 8, 3)), LABELS)
    assert loss.item() == pytest.approx(math.log(3))


def test_the_classifier_is_remembered_outside_the_branch(tiny: None) -> None:
    method = make("supervised")
    outside = {name: tuple(value.shape) for name, value in method.state_dict().items() if name[:7] != "online."}
    assert outside == {"classifier.weight": (3, 8), "classifier.bias": (3,)}
    assert all(name.startswith("encoder.") for name in method.online.state_dict())
    features, logits = method(some_views(method))
    torch.testing.assert_close(logits, method.classifier(features))


@pytest.mark.parametrize("classes", [0, 1])
def test_supervised_refuses_images_without_classes(tiny: None, classes: int) -> None:
    with pytest.raises(UserError, match="two classes or more") as caught:
        supervised.build(EncoderSpec("resnet18", classes=classes), supervised.Settings())
    assert caught.value.found == f"{classes} classes"
    assert supervised.NEEDS_LABELS


def test_supervised_without_labels_is_a_mistake_of_the_program(tiny: None) -> None:
    with pytest.raises(ValueError, match="needs labels"):
        make("supervised").loss((torch.zeros(1, 8, 8), torch.zeros(1, 8, 3)), None)
