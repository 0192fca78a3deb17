"""Transformers written for Detectron2 and MMDetection, read back and loaded by those libraries' classes."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch

from transfer.checkpoints.backbone import random_backbone
from transfer.checkpoints.families import family_of
from transfer.checkpoints.formats.detectron2_transformer import VIT
from transfer.checkpoints.formats.detectron2_transformer import content as for_detectron2
from transfer.checkpoints.formats.mmdet_swin import content as for_mmdet
from transfer.checkpoints.read import read_backbone
from transfer.checkpoints.write import convert
from transfer.runtime.errors import CheckpointError

SWIN = "swin_tiny_window7_224"
VITS = (
    "vit_64x3_patch16_64",
    "vit_64x3_patch8_64.h2.nocls.eps1e-05",
    "vit_64x3_patch16_64.m100.nobias.fcnorm.offset",
)


def lively(arch, seed=0):
    """No two tensors alike, so that an exchanged one shows."""
    backbone = random_backbone(arch, seed)
    generator = torch.Generator().manual_seed(seed)
    state = {
        name: value + 0.1 * torch.randn(value.shape, generator=generator) for name, value in backbone.state.items()
    }
    return replace(backbone, state=state)


def source(arch, tmp_path):
    """A file that this project writes and that says all of the architecture."""
    from transfer.checkpoints.formats.plain import FORMAT as PLAIN

    path = tmp_path / "source.pth"
    PLAIN.targets["timm"].write(lively(arch), path)
    return path


@pytest.mark.parametrize(
    ("to", "ending", "arch"),
    [*(("detectron2", ".pkl", arch) for arch in (*VITS, f"{SWIN}.eps1e-06")), ("mmdet", ".pth", f"{SWIN}.eps1e-06")],
)
def test_there_and_back_every_tensor_and_what_none_says_are_equal(to, ending, arch, tmp_path):
    first = source(arch, tmp_path)
    there, back = tmp_path / f"there{ending}", tmp_path / "back.pth"
    assert "read back and found equal" in convert(first, to, there)
    assert "read back and found equal" in convert(there, "timm", back)
    one, other = read_backbone(first), read_backbone(back)
    assert (other.arch, other.input) == (one.arch, one.input) == (arch, one.input)
    assert one.state.keys() == other.state.keys()
    assert all(torch.equal(tensor, other.state[name]) for name, tensor in one.state.items())


@pytest.mark.parametrize(
    ("to", "arch", "words"),
    [
        ("detectron2", "vit_64x3_patch16_64.reg4.ls", "no layer scale and no registers"),
        ("detectron2", "vit_64x3_patch16_64.swiglu", "no SwiGLU"),
        ("detectron2", "convnext_atto", "no such network"),
        ("mmdet", "vit_64x3_patch16_64", "no such network"),
        *((to, "swin_tiny_window14_224.eps1e-06", "smaller in its last stage") for to in ("mmdet", "detectron2")),
        ("mmdet", "convnext_atto", "no such network"),
    ],
)
def test_what_has_no_counterpart_is_refused_with_what_to_type(to, arch, words, tmp_path):
    out = tmp_path / ("out.pkl" if to == "detectron2" else "out.pth")
    with pytest.raises(CheckpointError, match=words) as caught:
        convert(source(arch, tmp_path), to, out)
    assert "--to timm" in caught.value.todo
    assert not out.exists()


@pytest.mark.parametrize("damage", ["missing", "reshaped", "renamed", "more"])
def test_a_damaged_export_is_refused_by_the_name_of_its_tensor(damage, tmp_path):
    content = for_mmdet(lively(SWIN))
    name = "backbone.stages.1.downsample.norm.weight"
    tensor = content["state_dict"].pop(name)
    if damage == "reshaped":
        content["state_dict"][name] = tensor[:-1]
    if damage == "renamed":
        content["state_dict"][name.replace("stages.1", "stages.4")] = tensor
    if damage == "more":
        content["state_dict"] |= {name: tensor, "backbone.stages.1.extra": tensor}
    torch.save(content, tmp_path / "file.pth")
    with pytest.raises(CheckpointError, match=r"layers\.(2|5)\.downsample\.norm\.weight|layers\.1\.extra"):
        read_backbone(tmp_path / "file.pth")


def test_what_lacks_the_facts_is_refused(tmp_path):
    content = for_mmdet(lively(SWIN))
    del content["transfer"]
    torch.save(content, tmp_path / "file.pth")
    with pytest.raises(CheckpointError, match="how its pixels are normalised"):
        read_backbone(tmp_path / "file.pth")


def maps_of(backbone, images):
    family = family_of(backbone.arch)
    network = family.build_for_maps(backbone.arch).eval()
    network.load_state_dict(backbone.state)
    with torch.no_grad():
        return family.maps(network, images, (0, 1, 2, 3))


def assert_near(ours, theirs):
    assert float((ours - theirs).abs().max()) < 1e-5 * float(theirs.abs().max())


def without_output_norms(network):
    for stage in range(4):
        setattr(network, f"norm{stage}", torch.nn.Identity())
    network.eval()
    return network


def test_mmdetections_own_class_loads_it_and_computes_the_same(tmp_path):
    import sys
    from pathlib import Path

    sys.path.append(str(Path(__file__).resolve().parents[2] / "detection" / "engines"))
    import mmdet_toy  # noqa: F401  # skips where there is no MMDetection
    from mmdet.models.backbones.swin import SwinTransformer
    from mmengine.config import ConfigDict

    backbone = lively(f"{SWIN}.eps1e-06")
    content = for_mmdet(backbone)
    torch.save(content, tmp_path / "file.pth")
    meta = content["meta"]
    network = SwinTransformer(
        embed_dims=meta["embed_dims"], depths=meta["depths"], num_heads=meta["num_heads"], norm_cfg=meta["norm_cfg"],
        window_size=meta["window_size"], init_cfg=ConfigDict(type="Pretrained", checkpoint=str(tmp_path / "file.pth")),
    )  # fmt: skip
    network.init_weights()
    images = torch.randn(1, 3, 96, 128, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for ours, theirs in zip(maps_of(backbone, images), without_output_norms(network)(images), strict=True):
            assert_near(ours, theirs)


class InDetectron2(torch.nn.Module):
    """Where its ViTDet project has a trunk."""

    def __init__(self, **inside):
        super().__init__()
        self.backbone = torch.nn.Module()
        for name, module in inside.items():
            setattr(self.backbone, name, module)


def loaded_by_detectron2(model, path):
    from detectron2.checkpoint import DetectionCheckpointer

    return DetectionCheckpointer(model).load(str(path))


@pytest.mark.detectron2
@pytest.mark.parametrize("arch", VITS)
def test_detectron2s_vit_loads_it_and_computes_the_same(arch, tmp_path):
    pytest.importorskip("detectron2")
    from detectron2.modeling.backbone.vit import ViT

    from transfer.checkpoints.families.vit import vit_of

    vit = vit_of(arch)
    path = tmp_path / "file.pkl"
    convert(source(arch, tmp_path), "detectron2", path)
    network = ViT(
        img_size=64, patch_size=vit.patch, embed_dim=64, depth=3, num_heads=vit.heads, mlp_ratio=vit.hidden / 64,
        qkv_bias=vit.bias, norm_layer=partial(torch.nn.LayerNorm, eps=vit.eps), use_rel_pos=False,
        pretrain_img_size=64, pretrain_use_cls_token=vit.cls,
    ).eval()  # fmt: skip
    loaded_by_detectron2(InDetectron2(net=network), path)
    backbone = lively(arch)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    alone = replace(vit, cls=False).arch  # as its attention has no CLS token
    plain = family_of(alone).build(alone).eval()
    state = {name: tensor for name, tensor in backbone.state.items() if name != "cls_token"}
    plain.load_state_dict(state | {"pos_embed": state["pos_embed"][:, int(vit.cls) :]})
    with torch.no_grad():
        (ours,) = family_of(alone).maps(plain, images, (2,))
        assert_near(ours, network(images)["last_feat"])


@pytest.mark.detectron2
def test_detectron2s_swin_loads_it_and_computes_the_same(tmp_path):
    pytest.importorskip("detectron2")
    from detectron2.modeling.backbone.swin import SwinTransformer

    path = tmp_path / "file.pkl"
    convert(source(SWIN, tmp_path), "detectron2", path)
    network = SwinTransformer(out_indices=(0, 1, 2, 3))
    loaded_by_detectron2(InDetectron2(bottom_up=network), path)
    backbone = lively(SWIN)
    images = torch.randn(1, 3, 96, 128, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        theirs = without_output_norms(network)(images)
        for index, ours in enumerate(maps_of(backbone, images)):
            assert_near(ours, theirs[f"p{index}"])


def test_names_are_exact_so_that_no_ending_is_tried_on_heads():
    content = for_detectron2(lively(VITS[0]))
    assert "matching_heuristics" not in content
    assert all(name.startswith(VIT) for name in content["model"])
