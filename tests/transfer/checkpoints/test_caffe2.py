"""Caffe2's names, folded batch norms and whole detectors: against the affine formula and Detectron2 itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import checkpoint_files as files
import pytest
import torch
from releases import Release, all_releases
from releases.caffe2 import blob
from releases.detectron1 import MSRA

from transfer.checkpoints.backbone import Backbone
from transfer.checkpoints.formats.detectron2 import detectron2_name
from transfer.checkpoints.read import read_backbone
from transfer.runtime.errors import CheckpointError

torch.set_num_threads(1)


class Affine(torch.nn.Module):
    """Caffe2's AffineChannel: y = s·x + b for each channel."""

    def __init__(self, scale: torch.Tensor, shift: torch.Tensor) -> None:
        super().__init__()
        self.scale, self.shift = scale.double()[:, None, None], shift.double()[:, None, None]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale * x + self.shift


def far(ours: torch.Tensor, wanted: torch.Tensor) -> float:
    """The largest difference, as a part of the largest value."""
    return float((ours - wanted).abs().max() / wanted.abs().max())


def made(which: str, path: Path) -> tuple[files.Tree, Backbone]:
    """(contents of the file, backbone read from it), with random weights."""
    release = all_releases()[which]
    tree = release.build(files.real_state(release.archs[0], seed=3))
    return tree, read_backbone(files.write(tree, path / "file.pkl", "pickle"))


@pytest.mark.parametrize("which", ["detectron1_msra", "caffe2_detection"])
def test_a_folded_norm_computes_the_affine_formula(which, tmp_path):
    tree, backbone = made(which, tmp_path)
    blobs = tree.get("blobs", tree)
    network = backbone.network().double()
    formula = backbone.network().double()
    for name, module in list(formula.named_modules()):
        if isinstance(module, torch.nn.BatchNorm2d):
            scale, shift = (torch.from_numpy(blobs[blob(f"{name}.{kind}")]) for kind in ("weight", "bias"))
            formula.set_submodule(name, Affine(scale, shift))
    images = torch.rand(1, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        wanted = formula(images)
        assert far(network(images), wanted) < 1e-6
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_var.fill_(1)
        assert far(network(images), wanted) > 1e-5  # what a variance of plain 1 would give


def test_a_convolutions_bias_is_left_out_and_said(tmp_path):
    _, backbone = made("detectron2_msra", tmp_path)
    assert any("conv1_b" in group.names for group in backbone.dropped)
    assert any("not all of these are 0" in note for note in backbone.notes)
    _, backbone = made("detectron1_msra", tmp_path)  # its biases are zeros
    assert not backbone.notes


def test_two_blobs_for_one_tensor_are_refused():
    tree = all_releases()["caffe2_jigsaw"].build(files.cheap_state("resnet50"))
    tree["blobs"]["conv1_w"] = tree["blobs"]["conv1_s0_w"]
    with pytest.raises(CheckpointError, match=r"a second conv1\.weight"):
        files.in_memory(tree)


def test_a_norm_with_half_of_its_statistics_is_not_taken_for_a_folded_one():
    tree = all_releases()["caffe2_supervised"].build(files.cheap_state("resnet50"))
    for name in [name for name in tree["blobs"] if name.endswith("_riv")]:
        del tree["blobs"][name]
    with pytest.raises(CheckpointError, match=r"bn1\.running_var"):
        files.in_memory(tree)


def detectron2_resnet(release: Release) -> Any:
    """Detectron2's own ResNet, frozen batch norms and all, configured as its model zoo does."""
    pytest.importorskip("detectron2")
    from detectron2.config import get_cfg
    from detectron2.layers import ShapeSpec
    from detectron2.modeling import build_backbone

    cfg = get_cfg()
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.RESNETS.STRIDE_IN_1X1 = release.stride_in_1x1
    if release.archs[0] == "resnext101_32x8d":
        cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.NUM_GROUPS, cfg.MODEL.RESNETS.WIDTH_PER_GROUP = 101, 32, 8
    return build_backbone(cfg, ShapeSpec(channels=3)).eval()


def load_into(model: Any, tree: files.Tree, path: Path) -> None:
    """By Detectron2's checkpointer, which takes arrays only and stumbles over the counter in training files."""
    from detectron2.checkpoint import DetectionCheckpointer

    blobs = {name: value for name, value in tree.get("blobs", tree).items() if hasattr(value, "shape")}
    arrays = {"blobs": blobs} if "blobs" in tree else blobs
    DetectionCheckpointer(model).load(str(files.write(arrays, path / "arrays.pkl", "pickle")))


READ_BY_DETECTRON2 = ("detectron2_msra", "detectron1_msra", "caffe2_supervised", "caffe2_detection", "detectron2_x101")


@pytest.mark.slow
@pytest.mark.detectron2
@pytest.mark.parametrize("which", READ_BY_DETECTRON2)
def test_detectron2_reads_the_same_tensors(which, tmp_path):
    """The file's names and norms, read by Detectron2's checkpointer and by this project, bit for bit."""
    release = all_releases()[which]
    model = detectron2_resnet(release)
    tree, ours = made(which, tmp_path)
    load_into(model, tree, tmp_path)
    theirs = model.state_dict()
    assert {detectron2_name(name) for name in ours.state} == set(theirs)
    for name, tensor in ours.state.items():
        if name.endswith("running_var") and release.derived(name):
            # FrozenBatchNorm2d begins with 1 − 1e-5, which makes the affine formula; its loading then puts 1 there
            assert torch.equal(theirs[detectron2_name(name)], torch.ones(tensor.shape)), name
            assert torch.equal(tensor, torch.ones(tensor.shape) - 1e-5), name
        else:
            assert torch.equal(theirs[detectron2_name(name)], tensor), name


@pytest.mark.detectron2
@pytest.mark.parametrize("which", ["detectron2_msra", "caffe2_supervised"])
def test_stride_is_where_detectron2_has_it(which, tmp_path):
    """The network of a Backbone computes what Detectron2's computes from the same file, wherever the stride sits."""
    release = all_releases()[which]
    model = detectron2_resnet(release)
    tree, backbone = made(which, tmp_path)
    load_into(model, tree, tmp_path)
    images = torch.rand(1, 3, 96, 64)
    with torch.no_grad():
        theirs = model(images)["res5"].mean((2, 3))
        ours = backbone.network()(images)
        swapped = files.torchvision_model(
            "resnet50", files.cheap_state("resnet50") | dict(backbone.state), stride_in_1x1=not backbone.stride_in_1x1
        )(images)
    assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(swapped, theirs, rtol=1e-4, atol=1e-5)


def test_the_spellings_differ():
    """The generators write what they say: three spellings of one norm."""
    assert blob("layer2.0.downsample.1.running_var") == "res3_0_branch1_bn_riv"
    assert blob("layer2.0.downsample.1.running_var", MSRA) == "res3_0_branch1_bn_running_var"
    assert blob("layer1.2.bn3.weight", tower="_s0") == "res2_2_branch2c_bn_s0_s"
    assert blob("bn1.weight", tower="_s0") == "res_conv1_bn_s0_s"
    assert blob("conv1.weight", tower="_s0") == "conv1_s0_w"


@pytest.mark.detectron2
@pytest.mark.parametrize(
    ("which", "config"),
    [
        ("detectron2_detector_fpn", "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml"),
        ("detectron2_detector_bare", "COCO-Detection/faster_rcnn_R_50_C4_1x.yaml"),
    ],
)
def test_the_generated_detectors_are_detectron2s(which, config):
    """Names and shapes of the generated files, pixels and batch counters aside, against detectors built for real."""
    pytest.importorskip("detectron2")
    from detectron2 import model_zoo
    from detectron2.modeling import build_model

    cfg = model_zoo.get_config(config)
    cfg.MODEL.DEVICE = "cpu"
    real = {name: tuple(value.shape) for name, value in build_model(cfg).state_dict().items()}
    tree = all_releases()[which].build(files.cheap_state("resnet50"))
    made = {name: tuple(value.shape) for name, value in tree.get("model", tree).items()}
    extra = {name for name in made if name.startswith("pixel_") or name.endswith("num_batches_tracked")}
    assert {name: shape for name, shape in made.items() if name not in extra} == real
