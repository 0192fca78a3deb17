"""ViTDet's backbone: what of a checkpoint is in it, what it computes, and at which rates it learns."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from trunk_toy import ARCH, TINY, Detector, lively

from detection.engines.forms import build, options
from detection.engines.trunk import PLACE, STRIDES, adamw, load, parameter_groups, verify_trunk
from detection.engines.vitdet import SimplePyramid
from detection.recipe import out_of_range
from detection.vitdet import demand_fitting, left_behind, notes, pyramid_gmacs, trunk_gmacs
from transfer.checkpoints.families.vit import FAMILY, vit_of
from transfer.checkpoints.verify import normalised
from transfer.runtime.errors import EngineError, UserError


def trunk(backbone, recipe=TINY):
    made, _ = build(options(recipe, backbone.arch))
    return load(made, backbone)


def proved(made, backbone, amp="off"):
    return verify_trunk(made, backbone, "the test", lambda image: normalised(image, backbone.input), amp)


@pytest.mark.parametrize(
    "arch",
    [
        ARCH,
        f"{ARCH}.nocls",
        f"{ARCH}.reg4.ls.antialias",
        f"{ARCH}.swiglu.ls.offset",
        f"{ARCH}.nobias.fcnorm",
        f"{ARCH}.nonorm.eps1e-05",
        "vit_64x4_patch16_128",  # its grid is the canvas's
        "vit_64x4_patch14_70.reg4.ls.antialias",
    ],
)
def test_every_tensor_that_has_a_place_arrives_and_both_comparisons_pass(arch):
    backbone = lively(arch)
    proof = proved(trunk(backbone), backbone)
    stays = set(backbone.state) - set(left_behind(arch))
    assert proof.tensors == proof.expected == len(stays)
    assert proof.by_part == {PLACE: len(stays)}
    image = vit_of(arch).image
    plain = {name: error for name, error in proof.stage_error.items() if name.endswith(f"windows off at {image}")}
    assert len(plain) == len(proof.stage_error) - len(plain) == 5  # patches and four blocks
    assert max(plain.values()) < 1e-6
    assert max(proof.stage_error.values()) < 1e-6


def test_bf16_is_proved_in_its_own_rounding():
    backbone = lively()
    assert 0 < max(proved(trunk(backbone), backbone, amp="bf16").rounding.values()) < 0.05


@pytest.mark.parametrize("name", ["pos_embed", "blocks.2.attn.qkv.weight", "blocks.0.norm1.bias"])
def test_one_damaged_tensor_is_refused_by_name(name):
    backbone = lively()
    made = trunk(backbone)
    with torch.no_grad():
        made.get_parameter(name).view(-1)[0] += 1e-3
    with pytest.raises(EngineError, match="nothing was trained") as caught:
        proved(made, backbone)
    assert name in str(caught.value)


def test_another_window_than_the_recipe_says_is_refused():
    backbone = lively()
    made = trunk(backbone)
    made.blocks[0].window_size = 4  # another is built beside it of what it was made with
    with pytest.raises(EngineError, match=r"blocks\.0 differs"):
        proved(made, backbone)


def test_a_block_that_computes_otherwise_with_its_windows_off_is_refused():
    """Relative positions that are no longer zero: the same inside and outside, and not the family's function."""
    backbone = lively()
    made = trunk(backbone)
    with torch.no_grad():
        made.blocks[1].attn.rel_pos_h[0] += 1.0
    with pytest.raises(EngineError, match=r"windows off at 64 differs"):
        proved(made, backbone)


def test_the_notes_list_what_stays_behind_and_what_is_new():
    (note,) = notes(f"{ARCH}.reg4", TINY)
    for name in ("cls_token", "the CLS token's position", "reg_token", "norm.weight", "norm.bias", "rel_pos_h"):
        assert name in note
    assert "from 4 × 4 to 8 × 8" in note
    (note,) = notes("vit_64x4_patch16_128.nocls.nonorm", TINY)
    assert "leaves out of the checkpoint: nothing" in note
    assert "resized" not in note


def test_patches_of_another_size_are_refused():
    with pytest.raises(UserError, match="patches of 16 or 14 pixels") as caught:
        demand_fitting(TINY, "vit_small_patch8_224")
    assert "vit_fpn instead of vitdet" in caught.value.todo


def test_patches_of_14_see_the_image_at_seven_eighths():
    """Maps of strides 4 … 64 of the canvas, by the very weights; what is seen is torchvision's resizing."""
    from torchvision.transforms.functional import resize

    backbone = lively("vit_64x4_patch14_70.nocls")
    made, pyramid = build(options(TINY, backbone.arch))
    load(made, backbone)
    images, seen = torch.randn(1, 3, 128, 128), []
    made.patch_embed.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    with torch.no_grad():
        maps = pyramid(made(images))
    assert [level.shape[2] for level in maps] == [32, 16, 8, 4, 2]
    torch.testing.assert_close(seen[0], resize(images, [112, 112], antialias=True))
    assert any("shrunk to 14/16" in note for note in notes(backbone.arch, TINY))


def test_blocks_that_there_are_not_are_refused_with_those_to_type():
    with pytest.raises(UserError, match="not all there") as caught:
        demand_fitting(replace(TINY, global_blocks=(2, 5, 8, 12)), "vit_base_patch16_224")
    assert "--detector.global-blocks, the last of each quarter as published: 2 5 8 11" in caught.value.todo


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"canvas": 200}, "192 or 256"),
        ({"max_size": 256}, "more than the canvas"),
        ({"scales": (2.0, 1.0)}, "not in order"),
        ({"scales": (0.0, 1.0)}, "scales is (0.0, 1.0)"),
        ({"layer_decay": 0.0}, "layer_decay"),
        ({"window": 0}, "window is 0"),
    ],
)
def test_recipes_that_mean_nothing_are_refused(change, word):
    assert any(word in problem for problem in out_of_range(replace(TINY, **change), 1))


def test_the_pyramid_has_five_levels_made_of_the_one_map():
    maps = SimplePyramid(64, 24)((torch.randn(2, 64, 8, 8),))
    assert [tuple(level.shape) for level in maps] == [(2, 24, 128 // stride, 128 // stride) for stride in STRIDES]
    assert torch.equal(maps[4], maps[3][:, :, ::2, ::2])


def settings(recipe, arch=ARCH):
    """Name → (rate, decay)."""
    model = Detector(trunk(lively(arch)), SimplePyramid(64, 32))
    groups = parameter_groups(model, recipe)
    names = {parameter: name for name, parameter in model.named_parameters()}
    found = {names[each]: (group["lr"], group["weight_decay"]) for group in groups for each in group["params"]}
    assert found.keys() == dict(model.named_parameters()).keys()
    return found


def test_rates_and_decays_are_those_of_the_authors_rule():
    recipe = replace(TINY, lr=1.0, layer_decay=0.5, weight_decay=0.3, weight_decay_bias=0.2, weight_decay_norm=0.1)
    found = settings(recipe, f"{ARCH}.ls")
    expected = {
        "head.weight": (1, 0.3),
        "head.bias": (1, 0.2),
        "backbone.pyramid.levels.p2.0.bias": (1, 0.2),
        "backbone.pyramid.levels.p2.1.weight": (1, 0.1),
        "backbone.trunk.blocks.3.attn.qkv.weight": (1 / 2, 0.3),
        "backbone.trunk.blocks.3.attn.rel_pos_h": (1 / 2, 0.3),
        "backbone.trunk.blocks.0.attn.qkv.bias": (1 / 16, 0.2),
        "backbone.trunk.blocks.0.norm1.bias": (1 / 16, 0.1),
        "backbone.trunk.blocks.0.ls1.gamma": (1 / 16, 0.1),
        "backbone.trunk.patch_embed.proj.weight": (1 / 32, 0.3),
        "backbone.trunk.pos_embed": (1 / 32, 0),
    }
    assert {name: found[name] for name in expected} == expected


def test_the_optimiser_names_the_full_rate_first():
    optimizer = adamw(Detector(trunk(lively()), SimplePyramid(64, 32)), TINY)
    assert optimizer.param_groups[0]["lr"] == TINY.lr
    assert {group["betas"] for group in optimizer.param_groups} == {(0.9, 0.999)}


def test_positions_are_the_families_own_on_the_canvas():
    backbone = lively("vit_64x4_patch16_64.offset")
    table = trunk(backbone).placed(backbone)["pos_embed"]
    network = backbone.network()
    seen = []
    network.pos_drop.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    with torch.no_grad():
        FAMILY.outputs(network, torch.zeros(1, 3, 128, 128), ["cls"])
        patches = network.patch_embed(torch.zeros(1, 3, 128, 128)).flatten(1, 2)
    torch.testing.assert_close(seen[0][:, 1:] - patches, table.flatten(1, 2), rtol=0, atol=1e-6)


def test_costs_are_those_of_the_layers():
    """Counted by torch on the modules themselves; attention, which it counts in another way, by windows off."""
    from torch.utils.flop_counter import FlopCounterMode

    backbone = lively()
    recipe = replace(TINY, window=8, rpn_convs=0)
    with torch.no_grad(), FlopCounterMode(display=False) as counted:
        last = trunk(backbone, recipe)(torch.zeros(1, 3, 128, 128))
    with torch.no_grad(), FlopCounterMode(display=False) as above:
        SimplePyramid(64, 32)(last)
    # relative positions are a small part that is left out
    assert trunk_gmacs(ARCH, recipe) == pytest.approx(counted.get_total_flops() / 2e9, rel=0.06)
    assert pyramid_gmacs(ARCH, recipe) == pytest.approx(above.get_total_flops() / 2e9, rel=1e-6)


def test_the_trunk_computes_what_detectron2s_own_class_does():
    """With relative positions that are not zero, and windows at the border that are filled up."""
    pytest.importorskip("detectron2")
    from functools import partial

    from detectron2.modeling.backbone.vit import ViT

    backbone, generator = lively(), torch.Generator().manual_seed(2)
    made = trunk(backbone).eval()
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "rel_pos" in name:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    theirs = ViT(
        img_size=128, embed_dim=64, depth=4, num_heads=1, window_size=3, window_block_indexes=(0, 2), use_rel_pos=True,
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-6), pretrain_img_size=128, pretrain_use_cls_token=False,
    ).eval()  # fmt: skip
    state = dict(made.state_dict())
    theirs.load_state_dict(state | {"pos_embed": state["pos_embed"].flatten(1, 2)})
    images = torch.randn(2, 3, 128, 128, generator=generator)
    with torch.no_grad():
        torch.testing.assert_close(made(images)[0], theirs(images)["last_feat"], rtol=0, atol=2e-5)


def test_a_deeper_network_than_the_recipe_is_for_is_refused_with_its_blocks():
    with pytest.raises(UserError, match="see windows alone") as caught:
        demand_fitting(TINY, "vit_large_patch16_224")
    assert "--detector.global-blocks 5 11 17 23" in str(caught.value)
    demand_fitting(replace(TINY, global_blocks=(5, 11, 17, 23)), "vit_large_patch16_224")
