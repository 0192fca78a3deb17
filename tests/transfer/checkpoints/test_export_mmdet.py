"""A Backbone written for MMDetection and read back, by this project and by mmdet itself."""

import hashlib

import pytest
import torch
from checkpoint_files import in_memory

from transfer.checkpoints.backbone import Backbone, InputSpec, Source, random_backbone
from transfer.checkpoints.families.resnet import is_optional
from transfer.checkpoints.formats.mmdet import content
from transfer.runtime.errors import CheckpointError


def saved_and_loaded(backbone, path):
    torch.save(content(backbone), path)
    return torch.load(path, weights_only=True)


def without_facts(tree):
    """What other programs keep of a file: they are told everything by `meta`."""
    return {key: value for key, value in tree.items() if key != "transfer"}


@pytest.mark.parametrize(("arch", "tensors"), [("resnet18", 120), ("resnet50", 318)])
def test_round_trip_gives_the_same_tensors(arch, tensors, tmp_path):
    backbone = random_backbone(arch, 5)
    written = saved_and_loaded(backbone, tmp_path / "file.pth")
    assert set(written) == {"meta", "state_dict", "transfer"}
    assert list(written["state_dict"]) == list(backbone.state)
    assert len(written["state_dict"]) == tensors
    back = in_memory(without_facts(written))
    assert back.arch == arch
    assert back.source.format == "mmdet"
    assert all(torch.equal(back.state[name], tensor) for name, tensor in backbone.state.items())
    # ImageNet's statistics as every MMDetection config writes them.
    assert back.input.value_range == 255
    assert back.input.mean == pytest.approx((123.675, 116.28, 103.53))
    assert back.input.std == pytest.approx((58.395, 57.12, 57.375))
    assert in_memory(without_facts(content(back))).input == back.input


def test_meta_says_how_to_feed_the_weights():
    plain = random_backbone("resnet50", 0)
    caffe = Backbone(
        "resnet50",
        plain.state,
        InputSpec("BGR", 255.0, (103.53, 116.28, 123.675), (1.0, 1.0, 1.0)),
        Source("x.pkl", hashlib.sha256(b"x").hexdigest(), "detectron2", "only"),
        stride_in_1x1=True,
    )
    meta = content(caffe)["meta"]
    assert meta["arch"] == "resnet50"
    assert meta["mean"] == [103.53, 116.28, 123.675]
    assert meta["std"] == [1.0, 1.0, 1.0]
    assert meta["bgr_to_rgb"] is False
    assert meta["style"] == "caffe"
    assert meta["source_sha256"] == hashlib.sha256(b"x").hexdigest()
    back = in_memory(without_facts(content(caffe)))
    assert back.stride_in_1x1
    assert back.input == caffe.input


def test_one_tensor_missing_is_refused_by_name():
    tree = content(random_backbone("resnet18", 0))
    del tree["state_dict"]["layer3.0.conv2.weight"]
    with pytest.raises(CheckpointError, match=r"layer3\.0\.conv2\.weight"):
        in_memory(tree)


@pytest.mark.parametrize("tree", [{}, {"state_dict": {}}, {"meta": {"epoch": 12}, "state_dict": {}}, {"meta": 1}])
def test_other_files_are_refused(tree):
    with pytest.raises(CheckpointError, match=r"file\.pth"):
        in_memory(tree, format="mmdet")


def test_mmdet_itself_reads_the_file_into_backbone_and_shared_head(tmp_path):
    pytest.importorskip("mmdet")
    from detection.engines import mmcv_ops

    mmcv_ops.install()
    from mmdet.models.backbones import ResNet
    from mmdet.models.roi_heads.shared_heads import ResLayer

    backbone = random_backbone("resnet18", 2)
    torch.save(content(backbone), tmp_path / "file.pth")
    pretrained = {"type": "Pretrained", "checkpoint": str(tmp_path / "file.pth")}
    parts = [
        ResNet(depth=18, num_stages=3, strides=(1, 2, 2), dilations=(1, 1, 1), out_indices=(2,), init_cfg=pretrained),
        ResLayer(depth=18, init_cfg=pretrained),
    ]
    arrived = {}
    for part in parts:
        part.init_weights()
        arrived |= part.state_dict()
    wanted = {name: tensor for name, tensor in backbone.state.items() if not is_optional(name)}
    assert all(torch.equal(arrived[name], tensor) for name, tensor in wanted.items())
