"""Trunks in both engines: the same pictures, tensors, rates and decays, and with equal weights equal detections."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("detectron2")
pytest.importorskip("mmdet")
from detectron2.structures import Boxes, pairwise_iou
from mmdet_toy import toy_dataset  # puts the operations that mmdet imports into place
from mmengine.structures import InstanceData
from test_engine_mmdet_parity import detectron2_names
from trunk_toy import RECIPES, TINY, trunk_job

from detection.engines.detectron2.detector import Detectron2Detector
from detection.engines.detectron2.matcher import MaxIoUMatcher
from detection.engines.mmdet.detector import MMDetector
from detection.engines.run import predict
from detection.engines.trunk import PLACE, parameter_groups
from detection.recipe import BEST_ANCHOR, BEST_REGION

pytestmark = pytest.mark.detectron2


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """Every second mask by run lengths."""
    return toy_dataset(tmp_path_factory.mktemp("mixed"), runs=True)


def heads(recipe):
    """Name in mmdet's detector → in Detectron2's, of the heads."""
    names = detectron2_names(recipe)
    proposals = getattr(recipe, "rpn_convs", 1)
    for index in range(proposals):
        theirs = f"conv.conv{index}" if proposals > 1 else "conv"
        ours = f"rpn_head.rpn_conv.{index}.conv" if proposals > 1 else "rpn_head.rpn_conv"
        names[ours] = f"proposal_generator.rpn_head.{theirs}"
    norm = "norm_layer" if recipe.norm == "LN" else "bn"  # mmcv's names
    for index in range(getattr(recipe, "box_convs", 0)):
        names[f"roi_head.bbox_head.shared_convs.{index}.conv"] = f"roi_heads.box_head.conv{index + 1}"
        names[f"roi_head.bbox_head.shared_convs.{index}.{norm}"] = f"roi_heads.box_head.conv{index + 1}.norm"
    if recipe.masks:
        names["roi_head.mask_head.convs.0.norm_layer"] = "roi_heads.mask_head.mask_fcn1.norm"
    return names


def counterpart(name, recipe):
    part, _, leaf = name.rpartition(".")
    return name if part.startswith("backbone.") else f"{heads(recipe)[part]}.{leaf}"


def both(recipe, dataset, folder):
    """A detector of each with the same lively weights everywhere."""
    job = trunk_job(dataset, folder, recipe)
    ours, theirs = MMDetector(job), Detectron2Detector(job)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in ours.model.named_parameters():
            if not name.startswith(f"{PLACE}.") or "rel_pos_" in name:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    theirs.model.load_state_dict({counterpart(name, recipe): value for name, value in ours.model.state_dict().items()})
    return ours, theirs


@pytest.mark.parametrize("name", RECIPES)
def test_every_tensor_has_the_same_rate_decay_and_freezing(name, dataset, tmp_path):
    recipe = replace(RECIPES[name], weight_decay=0.3, weight_decay_bias=0.2, weight_decay_norm=0.1)
    form = name.removesuffix("-masks")
    if form in ("vit", "swin"):
        recipe = replace(recipe, weight_decay_positions=0.4)
    found = []
    for detector in both(recipe, dataset, tmp_path):
        names = {id(parameter): key for key, parameter in detector.model.named_parameters()}
        assert all(parameter.requires_grad for parameter in detector.model.parameters())
        optimizer, _ = detector.optimisation()
        assert isinstance(optimizer, torch.optim.AdamW)
        rows = {
            names[id(each)]: (group["initial_lr"], group["weight_decay"], group["betas"], group["eps"])
            for group in optimizer.param_groups
            for each in group["params"]
        }
        assert rows.keys() == set(names.values())
        found.append(rows)
    ours = {counterpart(key, recipe): row for key, row in found[0].items()}
    assert ours == found[1]
    rates, decays = ({row[index] for row in found[1].values()} for index in (0, 1))
    assert len(rates) == {"vitdet": 6, "vit": 6, "convnext": 7, "swin": 1}[form]
    positions = {"vitdet": {0.0}, "vit": {0.4}, "swin": {0.4}, "convnext": set()}[form]
    assert decays == {0.3, 0.2, 0.1} | positions


def test_both_warm_up_and_step_alike(dataset, tmp_path):
    recipe, rates = replace(TINY, iterations=8, warmup_iterations=3, steps=(5, 7)), []
    for detector in both(recipe, dataset, tmp_path):
        optimizer, schedule = detector.optimisation()
        rows = []
        for _ in range(recipe.iterations):
            rows.append([group["lr"] for group in optimizer.param_groups])
            optimizer.step()
            schedule.step()
        rates.append(rows)
    np.testing.assert_allclose(rates[0], rates[1], rtol=1e-6)
    assert len(rates[0][0]) == len(parameter_groups(both(recipe, dataset, tmp_path / "b")[0].model, recipe))


@pytest.mark.parametrize("name", RECIPES)
def test_both_train_on_the_same_pictures_boxes_and_masks(name, dataset, mixed, tmp_path):
    for images in (dataset, mixed) if "masks" in name else (dataset,):
        ours, theirs = both(RECIPES[name], images, tmp_path / images.images[0].path.parent.name)
        for one, other in zip(ours.batches(3, 0, 3), theirs.batches(3, 0, 3), strict=True):
            for index, item in enumerate(other):
                sample = one["data_samples"][index].gt_instances
                assert torch.equal(one["inputs"][index].flip(0), item["image"])  # BGR and RGB
                assert torch.equal(sample.bboxes, item["instances"].gt_boxes.tensor)
                assert torch.equal(sample.labels, item["instances"].gt_classes)
                if "masks" in name:
                    assert same_masks(sample.masks, item["instances"].gt_masks)


def same_masks(ours, theirs):
    if hasattr(theirs, "polygons"):
        pairs = zip(ours.masks, theirs.polygons, strict=True)
        return all(np.array_equal(one, other) for a, b in pairs for one, other in zip(a, b, strict=True))
    return np.array_equal(ours.masks.astype(bool), theirs.tensor.numpy())


@pytest.mark.parametrize("name", RECIPES)
def test_both_find_the_same(name, dataset, tmp_path):
    recipe = replace(RECIPES[name], score_threshold=0.005, max_detections=20)
    ours, theirs = map(predict, both(recipe, dataset, tmp_path))
    assert len(ours) == len(theirs) > 10
    orders = [np.lexsort((np.round(found.scores, 4), found.image_ids)) for found in (ours, theirs)]
    # Two proposals that are equally good in one library may be ranked the other way round in the other.
    for field, tolerance in (("image_ids", 0.0), ("scores", 1e-4), ("boxes", 0.02)):
        first, second = (getattr(found, field)[order] for found, order in zip((ours, theirs), orders, strict=True))
        assert np.mean(np.abs(first - second) <= tolerance) > 0.9, field
    if recipe.masks:
        same = [ours.masks[one] == theirs.masks[other] for one, other in zip(*orders, strict=True)]
        assert np.mean(same) > 0.9  # a pixel on the threshold may fall either way


@pytest.mark.parametrize("name", [name for name in RECIPES if "masks" not in name])
def test_the_maps_are_equal_bit_for_bit(name, dataset, tmp_path):
    ours, theirs = both(RECIPES[name], dataset, tmp_path)
    canvas = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        maps = [detector.model.eval().backbone(canvas) for detector in (ours, theirs)]
    assert all(torch.equal(one, other) for one, other in zip(maps[0], maps[1].values(), strict=True))


@pytest.mark.parametrize("name", [name for name in RECIPES if "masks" in name])
def test_losses_of_all_regions_are_equal(name, dataset, tmp_path):
    """With more places for regions than there are, nothing is drawn at random."""
    recipe = replace(
        RECIPES[name], rpn_batch=8192, rpn_positive=1.0, roi_batch=512, roi_positive=1.0, drop_path=0.0, flip=0.0
    )
    found = []
    for detector in both(recipe, dataset, tmp_path):
        detector.model.train()
        (batch,) = detector.batches(3, 0, 1)
        found.append({name: float(value.detach()) for name, value in detector.losses(batch).items()})
    mmdet, detectron2 = found
    for ours, theirs in (("loss_cls", "loss_cls"), ("loss_bbox", "loss_box_reg"), ("loss_mask", "loss_mask")):
        assert mmdet[ours] == pytest.approx(detectron2[theirs], rel=1e-5), ours
    if name != "vitdet-masks":  # anchors over the padding of a batch are known to differ
        return
    # Of places that stay empty Detectron2 counts the number in the divisor; there are none in a real training.
    terms = ((mmdet, "loss_rpn_cls", "loss_rpn_bbox"), (detectron2, "loss_rpn_cls", "loss_rpn_loc"))
    ours, theirs = (losses[one] / losses[other] for losses, one, other in terms)
    assert ours == pytest.approx(theirs, rel=1e-4)


def overlapping(generator, boxes, candidates):
    """(boxes, candidates), each [n, 4]; candidates lie on a grid, so that several are equally good."""
    corners = torch.randint(0, 100, (boxes, 2), generator=generator).float()
    sizes = torch.randint(2, 60, (boxes, 2), generator=generator).float()
    grid = 8.0 * torch.randint(0, 16, (candidates, 2), generator=generator)
    sides = 8.0 * torch.randint(1, 6, (candidates, 2), generator=generator)
    return torch.cat([corners, corners + sizes], 1), torch.cat([grid, grid + sides], 1)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(
    ("thresholds", "labels", "least"), [([0.3, 0.7], [0, -1, 1], BEST_ANCHOR), ([0.5], [0, 1], BEST_REGION)]
)
def test_anchors_and_regions_learn_the_boxes_that_mmdetections_assigner_gives_them(seed, thresholds, labels, least):
    from mmdet.models.task_modules.assigners import MaxIoUAssigner

    generator = torch.Generator().manual_seed(seed)
    boxes, candidates = overlapping(generator, seed, 400)
    assigner = MaxIoUAssigner(thresholds[-1], thresholds[0], min_pos_iou=least, match_low_quality=True)
    given = assigner.assign(
        InstanceData(priors=candidates), InstanceData(bboxes=boxes, labels=torch.zeros(seed, dtype=torch.long))
    ).gt_inds  # −1: neither, 0: background, n + 1: box n
    matches, found = MaxIoUMatcher(thresholds, labels, least)(pairwise_iou(Boxes(boxes), Boxes(candidates)))
    assert torch.equal(torch.where(found == 1, matches + 1, found.long()), given)


def test_recipes_of_mmdetection_alone_match_by_its_rule(dataset, tmp_path):
    for name, recipe in RECIPES.items():
        model = both(recipe, dataset, tmp_path / name)[1].model
        ours = recipe.library == "mmdet"
        assert isinstance(model.proposal_generator.anchor_matcher, MaxIoUMatcher) == ours
        assert isinstance(model.roi_heads.proposal_matcher, MaxIoUMatcher) == ours
