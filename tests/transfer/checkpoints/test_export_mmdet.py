"""A Backbone written for MMDetection and read back, by this project and by mmdet itself."""

import hashlib

import pytest
import torch

from transfer.checkpoints.architectures import is_optional
from transfer.checkpoints.backbone import Backbone, InputSpec, Source, random_backbone
from transfer.checkpoints.to_mmdet import from_mmdet, to_mmdet
from transfer.runtime.errors import CheckpointError

SOURCE = Source(path="file.pth", sha256="0" * 64, format="mmdet")


def saved_and_loaded(backbone, path):
    torch.save(to_mmdet(backbone), path)
    return torch.load(path, weights_only=True)


@pytest.mark.parametrize(("arch", "tensors"), [("resnet18", 120), ("resnet50", 318)])
def test_round_trip_gives_the_same_tensors(arch, tensors, tmp_path):
    backbone = random_backbone(arch, 5)
    content = saved_and_loaded(backbone, tmp_path / "file.pth")
    assert set(content) == {"meta", "state_dict"}
    assert list(content["state_dict"]) == list(backbone.state)
    assert len(content["state_dict"]) == tensors
    back = from_mmdet(content, SOURCE)
    assert back.arch == arch
    assert back.source == SOURCE
    assert all(torch.equal(back.state[name], tensor) for name, tensor in backbone.state.items())
    # ImageNet's statistics as every MMDetection config writes them.
    assert back.input.value_range == 255
    assert back.input.mean == pytest.approx((123.675, 116.28, 103.53))
    assert back.input.std == pytest.approx((58.395, 57.12, 57.375))
    assert from_mmdet(to_mmdet(back), SOURCE).input == back.input


def test_meta_says_how_to_feed_the_weights():
    plain = random_backbone("resnet50", 0)
    caffe = Backbone(
        "resnet50",
        plain.state,
        InputSpec("BGR", 255.0, (103.53, 116.28, 123.675), (1.0, 1.0, 1.0)),
        Source("x.pkl", hashlib.sha256(b"x").hexdigest(), "detectron2", "only"),
        stride_in_1x1=True,
    )
    meta = to_mmdet(caffe)["meta"]
    assert meta["arch"] == "resnet50"
    assert meta["mean"] == [103.53, 116.28, 123.675]
    assert meta["std"] == [1.0, 1.0, 1.0]
    assert meta["bgr_to_rgb"] is False
    assert meta["style"] == "caffe"
    assert meta["source_sha256"] == hashlib.sha256(b"x").hexdigest()
    back = from_mmdet(to_mmdet(caffe), SOURCE)
    assert back.stride_in_1x1
    assert back.input == caffe.input


def test_the_file_is_a_copy():
    backbone = random_backbone("resnet18", 0)
    to_mmdet(backbone)["state_dict"]["conv1.weight"].zero_()
    assert backbone.state["conv1.weight"].abs().sum() > 0


def test_one_tensor_missing_is_refused_by_name():
    content = to_mmdet(random_backbone("resnet18", 0))
    del content["state_dict"]["layer3.0.conv2.weight"]
    with pytest.raises(CheckpointError, match=r"layer3\.0\.conv2\.weight"):
        from_mmdet(content, SOURCE)


@pytest.mark.parametrize("content", [{}, {"state_dict": {}}, {"meta": {"epoch": 12}, "state_dict": {}}, {"meta": 1}])
def test_other_files_are_refused(content):
    with pytest.raises(CheckpointError, match=r"file\.pth"):
        from_mmdet(content, SOURCE)


def test_mmdet_itself_reads_the_file_into_backbone_and_shared_head(tmp_path):
    pytest.importorskip("mmdet")
    from detection.engines import mmcv_ops

    mmcv_ops.install()
    from mmdet.models.backbones import ResNet
    from mmdet.models.roi_heads.shared_heads import ResLayer

    backbone = random_backbone("resnet18", 2)
    torch.save(to_mmdet(backbone), tmp_path / "file.pth")
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
