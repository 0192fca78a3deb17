"""Both engines train the same tensors, freeze the same ones, decay them alike and start from the same weights."""

import dataclasses
from collections import Counter

import pytest
import torch

from transfer.checkpoints.families.resnet import is_optional

pytest.importorskip("detectron2")
pytest.importorskip("mmdet")
from mmdet_toy import BACKBONE, FAMILIES, job_of

pytestmark = pytest.mark.detectron2

QUICK = ("faster_rcnn fpn", "mask_rcnn c4")
CASES = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in FAMILIES]
REGIONS = [case for case in CASES if case.values[0].split()[0] in ("faster_rcnn", "mask_rcnn")]


def detectron2_parts(recipe, dataset, folder):
    """(detector, optimiser, torchvision name → tensor) as Detectron2's engine builds them."""
    from detectron2.solver import build_optimizer
    from detectron2_toy import build_verified_model

    from detection.engines.detectron2.config import build_cfg
    from detection.engines.detectron2.model import placed_tensors

    job = job_of(dataset, folder, recipe)
    folder.mkdir()
    cfg = build_cfg(job)
    model, _ = build_verified_model(cfg, job.backbone, job.seed, job.world)
    return model, build_optimizer(cfg, model), placed_tensors(model, job.backbone)


def mmdet_parts(recipe, dataset, folder):
    """The same as MMDetection's engine builds them."""
    from mmengine.optim import build_optim_wrapper

    from detection.engines.mmdet.config import build_config
    from detection.engines.mmdet.model import build_detector, place_of

    job = job_of(dataset, folder, recipe)
    config = build_config(recipe, job.backbone, dataset.classes)
    model = build_detector(config, job.backbone, job.seed)
    return model, build_optim_wrapper(model, config.optim_wrapper).optimizer, place_of(model, job.backbone)


def trained(optimizer):
    """Every trained tensor's storage → (its shape, learning rate, momentum, weight decay)."""
    return {
        parameter.data_ptr(): (tuple(parameter.shape), group["lr"], group["momentum"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
        if parameter.requires_grad
    }


@pytest.mark.parametrize("freeze_at", [0, 2, 5])
@pytest.mark.parametrize("name", CASES)
def test_backbones_are_trained_frozen_and_decayed_alike(name, freeze_at, dataset, tmp_path):
    recipe = dataclasses.replace(FAMILIES[name], freeze_at=freeze_at, weight_decay=0.01, weight_decay_norm=0.001)
    settings, weights = [], []
    for build, folder in ((detectron2_parts, "d"), (mmdet_parts, "m")):
        _, optimizer, placed = build(recipe, dataset, tmp_path / folder)
        groups = trained(optimizer)
        placed = {key: tensor for key, (tensor, _) in placed.items() if not is_optional(key)}
        settings.append({key: groups.get(tensor.data_ptr()) for key, tensor in placed.items()})
        weights.append({key: tensor.detach().clone() for key, tensor in placed.items()})
    assert settings[0] == settings[1]
    frozen = {key for key, values in settings[0].items() if values is None and "running" not in key}
    assert ("conv1.weight" in frozen) == (freeze_at > 0)
    # the last stage of a C4 detector belongs to its head, which nothing freezes
    assert ("layer4.0.conv1.weight" in frozen) == (freeze_at == 5 and not name.endswith("c4"))
    assert settings[0]["layer4.0.bn1.weight"] is None or settings[0]["layer4.0.bn1.weight"][-1] == 0.001
    for key, tensor in weights[0].items():
        assert torch.equal(tensor, weights[1][key])
        assert torch.equal(tensor, BACKBONE.state[key])


@pytest.mark.parametrize("name", REGIONS)
def test_heads_have_the_same_tensors_in_the_same_groups(name, dataset, tmp_path):
    recipe = dataclasses.replace(FAMILIES[name], weight_decay=0.01, weight_decay_norm=0.001)
    found = []
    for build, folder in ((detectron2_parts, "d"), (mmdet_parts, "m")):
        _, optimizer, placed = build(recipe, dataset, tmp_path / folder)
        inside = {tensor.data_ptr() for tensor, _ in placed.values()}
        found.append(Counter(values for pointer, values in trained(optimizer).items() if pointer not in inside))
    assert found[0] == found[1]
    assert sum(found[0].values()) > 10
