"""The same weights in both libraries give the same detections and losses: a recipe means the same in both."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from mmdet_toy import FAMILIES, job_of

pytest.importorskip("detectron2")
from detection.engines.detectron2.detector import Detectron2Detector
from detection.engines.mmdet.detector import MMDetector
from detection.engines.run import predict
from transfer.checkpoints.formats.detectron2 import detectron2_name

pytestmark = pytest.mark.detectron2


def by_size_first(tensor: torch.Tensor, sizes: int, ratios: int) -> torch.Tensor:
    """Channels of an anchor head: mmdet counts ratios first, Detectron2 sizes."""
    shape = (ratios, sizes, -1, *tensor.shape[1:])
    return tensor.reshape(shape).transpose(0, 1).reshape(tensor.shape)


def detectron2_names(recipe) -> dict[str, str]:
    """Beginning of a name in mmdet's detector → in Detectron2's; backbone apart."""
    if recipe.regions:
        names = {
            "rpn_head.rpn_conv": "proposal_generator.rpn_head.conv",
            "rpn_head.rpn_cls": "proposal_generator.rpn_head.objectness_logits",
            "rpn_head.rpn_reg": "proposal_generator.rpn_head.anchor_deltas",
            "roi_head.bbox_head.fc_cls": "roi_heads.box_predictor.cls_score",
            "roi_head.bbox_head.fc_reg": "roi_heads.box_predictor.bbox_pred",
            "roi_head.bbox_head.shared_fcs.0": "roi_heads.box_head.fc1",
            "roi_head.bbox_head.shared_fcs.1": "roi_heads.box_head.fc2",
            "roi_head.mask_head.convs.0.conv": "roi_heads.mask_head.mask_fcn1",
            "roi_head.mask_head.upsample": "roi_heads.mask_head.deconv",
            "roi_head.mask_head.conv_logits": "roi_heads.mask_head.predictor",
            "roi_head.shared_head.norm": "roi_heads.res5.norm",
        }
    else:
        fcos = recipe.family == "fcos"
        names = {
            "bbox_head.retina_cls": "head.cls_score",
            "bbox_head.conv_cls": "head.cls_score",
            "bbox_head.retina_reg": "head.bbox_pred",
            "bbox_head.conv_reg": "head.bbox_pred",
            "bbox_head.conv_centerness": "head.ctrness",
        }
        for tower, theirs in (("cls_convs", "cls_subnet"), ("reg_convs", "bbox_subnet")):
            for index in range(recipe.dense.convs):
                place = index * (3 if fcos else 2)
                names[f"bbox_head.{tower}.{index}.conv"] = f"head.{theirs}.{place}"
                names[f"bbox_head.{tower}.{index}.gn"] = f"head.{theirs}.{place + 1}"
    first = 2 if recipe.regions else 3
    for index in range(6 - first):
        for ours, theirs in (("lateral_convs", "fpn_lateral"), ("fpn_convs", "fpn_output")):
            names[f"neck.{ours}.{index}.conv"] = f"backbone.{theirs}{first + index}"
            names[f"neck.{ours}.{index}.bn"] = f"backbone.{theirs}{first + index}.norm"
    for index, level in ((3, "p6"), (4, "p7")):
        if not recipe.regions:
            names[f"neck.fpn_convs.{index}.conv"] = f"backbone.top_block.{level}"
    return names


def copy_weights(model, other, recipe) -> None:
    """Fill all of Detectron2's tensors from mmdet's."""
    names, filled, inside = detectron2_names(recipe), {}, other.state_dict()
    trunk = "backbone.bottom_up" if recipe.neck == "fpn" else "backbone"
    sizes = 1
    if recipe.neck == "c4":
        sizes = len(recipe.anchor_sizes)
    elif recipe.family == "retinanet":
        sizes = recipe.dense.octaves
    for name, tensor in model.state_dict().items():
        part, _, leaf = name.rpartition(".")
        anchored = part.endswith(("rpn_cls", "rpn_reg", "retina_cls", "retina_reg"))
        if part.startswith("backbone."):
            theirs = f"{trunk}.{detectron2_name(name.removeprefix('backbone.'))}"
        elif part.startswith("roi_head.shared_head.layer4"):
            theirs = f"roi_heads.{detectron2_name(name.removeprefix('roi_head.shared_head.'))}"
        elif part in names:
            theirs = f"{names[part]}.{leaf}"
        else:
            assert name.startswith("bbox_head.scales"), name
            continue
        if theirs in inside:
            filled[theirs] = by_size_first(tensor, sizes, len(recipe.anchor_ratios)) if anchored else tensor
    other.load_state_dict(filled)  # strict: nothing may be missing


def both(name, dataset, tmp_path, **changes):
    """A detector with lively heads in either library."""
    recipe = replace(FAMILIES[name], score_threshold=0.005, max_detections=20, **changes)
    job = job_of(dataset, tmp_path, recipe)
    ours, theirs = MMDetector(job), Detectron2Detector(job)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for key, parameter in ours.model.named_parameters():
            if any(part in key for part in ("rpn_", "fc_", "conv_", "retina_", "upsample")) and parameter.ndim > 1:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    copy_weights(ours.model, theirs.model, recipe)
    return ours, theirs


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name.endswith("c4") else ()) for name in FAMILIES]
)
def test_both_find_the_same(name, dataset, tmp_path):
    detectors = both(name, dataset, tmp_path)
    ours, theirs = map(predict, detectors)
    assert len(ours) == len(theirs) > 10
    orders = [np.lexsort((np.round(found.scores, 4), found.image_ids)) for found in (ours, theirs)]
    # Two proposals that are equally good in one library may be ranked the other way round in the other.
    for field, tolerance in (("image_ids", 0.0), ("scores", 1e-4), ("boxes", 0.02)):
        first, second = (getattr(found, field)[order] for found, order in zip((ours, theirs), orders, strict=True))
        assert np.mean(np.abs(first - second) <= tolerance) > 0.9, field
    if detectors[0].job.recipe.masks:
        same = [ours.masks[one] == theirs.masks[other] for one, other in zip(*orders, strict=True)]
        assert np.mean(same) > 0.9  # a pixel on the threshold may fall either way


@pytest.mark.parametrize(
    ("name", "parts"),
    [("retinanet fpn", ("loss_cls", "loss_box_reg")), ("fcos fpn", ("loss_fcos_cls", "loss_fcos_ctr"))],
)
def test_losses_are_in_the_same_proportion(name, parts, dataset, tmp_path):
    """Proportions, because the normalisers differ; one image of 96 × 64 has no padding."""
    one = replace(dataset, images=dataset.images[1:2])
    mmdet, detectron2 = both(name, one, tmp_path, train_sizes=(64,), batch=1, norm="FrozenBN")
    names = ("loss_cls", "loss_bbox" if name.startswith("retina") else "loss_centerness")
    found = []
    for detector, terms in ((mmdet, names), (detectron2, parts)):
        detector.model.train()
        (batch,) = detector.batches(0, 0, 1)
        losses = detector.losses(batch)
        found.append([float(losses[term]) for term in terms])
    ours, theirs = found
    assert ours[0] / ours[1] == pytest.approx(theirs[0] / theirs[1], rel=1e-3)
