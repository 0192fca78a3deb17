"""Detectors on four maps: what of a checkpoint is in the trunk, what it computes, and at which rates it learns."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from trunk_toy import ARCHS, COUNTS, RECIPES, Detector, lively

from detection.backbones import demand_taken
from detection.engines.differences import differences
from detection.engines.forms import build, options
from detection.engines.trunk import PLACE, STRIDES, load, parameter_groups, verify_trunk
from detection.maps import left_behind, notes, pyramid_gmacs, trunk_gmacs
from detection.recipe import out_of_range
from transfer.checkpoints.families import family_of
from transfer.checkpoints.families.swin import SwinTransformers
from transfer.checkpoints.verify import normalised
from transfer.runtime.errors import EngineError, UserError

FAMILIES = tuple(ARCHS)


def parts(backbone, recipe):
    """(trunk with the weights, pyramid)."""
    trunk, pyramid = build(options(recipe, backbone.arch))
    return load(trunk, backbone), pyramid


def proved(trunk, backbone, amp="off"):
    return verify_trunk(trunk, backbone, "the test", lambda image: normalised(image, backbone.input), amp)


@pytest.mark.parametrize(
    ("family", "arch"),
    [
        *(("vit", f"vit_64x4_{end}") for end in ("patch16_64", "patch8_64.nocls", "patch16_64.reg4.ls.antialias")),
        ("vit", "vit_64x4_patch16_64.fcnorm.offset"),
        ("vit", "vit_64x4_patch14_70.reg4.ls.antialias"),
        ("vit", "beit_64x4_patch16_64.norel.abs"),  # as CAE's
        *(("convnext", arch) for arch in ("convnext_atto", "convnextv2_atto.nonorm")),
        ("swin", "swin_tiny_window7_224.eps1e-06"),
    ],
)
def test_every_tensor_but_those_behind_the_last_map_arrives_and_both_comparisons_pass(family, arch):
    backbone = lively(arch)
    trunk, _ = parts(backbone, RECIPES[family])
    proof = proved(trunk, backbone)
    assert proof.tensors == proof.expected == len(backbone.state) - len(left_behind(arch))
    assert proof.by_part == {PLACE: proof.tensors}
    height, width = family_of(arch).proof_sides(arch)
    plain = [name for name in proof.stage_error if name.endswith(f", as trained at {height} × {width}")]
    assert 2 * len(plain) == len(proof.stage_error)
    assert max(proof.stage_error.values()) < 1e-6
    assert set(left_behind(arch)).isdisjoint(name.removeprefix("network.") for name in trunk.state_dict())


def test_the_toys_have_as_many_tensors_as_said():
    assert {name: len(parts(lively(arch), RECIPES[name])[0].state_dict()) for name, arch in ARCHS.items()} == {
        name: COUNTS[name] for name in ARCHS
    }


def test_bf16_is_proved_in_its_own_rounding():
    backbone = lively("convnext_atto")
    assert 0 < max(proved(parts(backbone, RECIPES["convnext"])[0], backbone, "bf16").rounding.values()) < 0.05


def test_a_swin_that_still_shifts_what_one_window_covered_is_refused(monkeypatch):
    backbone = lively(ARCHS["swin"])
    trunk, _ = parts(backbone, RECIPES["swin"])
    monkeypatch.setattr(SwinTransformers, "as_trained", lambda self, network, arch: nullcontext())
    with pytest.raises(EngineError, match=r"layers\.3\.blocks\.1, as trained at 224 × 224 differs"):
        proved(trunk, backbone)


def test_shifts_are_as_before_when_a_proof_breaks_off():
    family, arch = family_of(ARCHS["swin"]), ARCHS["swin"]
    network = family.build_for_maps(arch)
    blocks = network.layers[3].blocks
    meanwhile = family.as_trained(network, arch)
    meanwhile.__enter__()
    assert blocks[1].shift_size == (0, 0)
    meanwhile.__exit__(KeyError, KeyError(), None)
    assert [block.shift_size for block in blocks] == [(0, 0), (3, 3)]


@pytest.mark.parametrize("sides", [(224, 224), (96, 160), (256, 320)])
def test_swin_computes_what_mmdetections_own_class_does(sides):
    """Which is that of the authors' detectors; mmdet's reader of their files permutes what it holds otherwise."""
    import mmdet_toy  # noqa: F401  # skips where there is no MMDetection
    from mmdet.models.backbones.swin import SwinTransformer, swin_converter

    backbone = lively(ARCHS["swin"])
    trunk, _ = parts(backbone, RECIPES["swin"])
    theirs = SwinTransformer(embed_dims=96, depths=(2, 2, 6, 2), num_heads=(3, 6, 12, 24), window_size=7)
    official = {}
    for name, tensor in backbone.state.items():
        words = name.split(".")
        if "downsample" in words:
            words[1] = str(int(words[1]) - 1)
        official[".".join(words)] = tensor
    read = {name.removeprefix("backbone."): tensor for name, tensor in swin_converter(official).items()}
    state = theirs.state_dict()
    assert {name for name in state if not name.startswith("norm") and "index" not in name} <= read.keys()
    theirs.load_state_dict(state | {name: tensor for name, tensor in read.items() if name in state})
    for stage in range(4):
        setattr(theirs, f"norm{stage}", torch.nn.Identity())
    theirs.eval(), trunk.eval()
    images = torch.randn(2, 3, *sides, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for ours, other in zip(trunk(images), theirs(images), strict=True):
            torch.testing.assert_close(ours, other, rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    ("arch", "third", "last"),
    [
        ("convnext_tiny", [3, 3, 3, 4, 4, 4, 5, 5, 5], 6),
        ("convnext_small", [3 + number // 3 for number in range(27)], 12),
        ("convnextv2_atto", [3, 3, 3, 4, 4, 4], 5),  # a size that the authors have no detector of
    ],
)
def test_layers_of_a_convnext_are_those_of_the_authors_rule(arch, third, last):
    """Typed from facebookresearch/ConvNeXt: its constructor with num_layers 6 for T, 12 for S, B, L, XL."""

    def layer(name):
        return family_of(arch).layer(arch, name)

    assert layer("stem.0.weight") == layer("stem.1.bias") == 0
    assert layer("stages.0.blocks.2.conv_dw.weight") == 1
    assert layer("stages.1.downsample.0.weight") == layer("stages.1.blocks.1.mlp.fc1.bias") == 2
    assert layer("stages.2.downsample.1.weight") == 3
    assert [layer(f"stages.2.blocks.{number}.norm.weight") for number in range(len(third))] == third
    assert layer("stages.3.downsample.1.weight") == layer("stages.3.blocks.2.mlp.fc2.weight") == last
    assert layer("head.norm.weight") == last + 1


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        (
            "convnext",
            {
                "head.weight": (1, 0.3),
                "backbone.pyramid.levels.3.weight": (1, 0.1),
                "backbone.pyramid.fpn.inner_blocks.0.0.bias": (1, 0.2),
                "backbone.trunk.network.stages.3.blocks.0.mlp.fc1.weight": (1 / 2, 0.3),
                "backbone.trunk.network.stages.2.blocks.5.gamma": (1 / 4, 0.1),
                "backbone.trunk.network.stages.2.blocks.2.mlp.fc1.bias": (1 / 8, 0.2),
                "backbone.trunk.network.stages.1.downsample.1.weight": (1 / 16, 0.3),
                "backbone.trunk.network.stem.0.weight": (1 / 64, 0.3),
            },
        ),
        (
            "vit",
            {
                "backbone.pyramid.levels.0.0.weight": (1, 0.3),
                "backbone.pyramid.levels.0.1.bias": (1, 0.1),
                "backbone.trunk.network.blocks.3.attn.qkv.weight": (1 / 2, 0.3),
                "backbone.trunk.network.cls_token": (1 / 32, 0.4),
                "backbone.trunk.network.pos_embed": (1 / 32, 0.4),
            },
        ),
        (
            "swin",
            {
                "backbone.trunk.network.patch_embed.proj.weight": (1, 0.3),
                "backbone.trunk.network.layers.1.blocks.0.attn.qkv.bias": (1, 0.2),
                "backbone.trunk.network.layers.1.blocks.0.attn.relative_position_bias_table": (1, 0.4),
                "backbone.trunk.network.layers.1.downsample.norm.weight": (1, 0.1),
            },
        ),
    ],
)
def test_rates_and_decays_are_those_of_the_authors_rules(family, expected):
    decay = {"weight_decay": 0.3, "weight_decay_bias": 0.2, "weight_decay_norm": 0.1}
    decay |= {} if family == "convnext" else {"weight_decay_positions": 0.4}
    recipe = replace(RECIPES[family], lr=1.0, **({} if family == "swin" else {"layer_decay": 0.5}), **decay)
    model = Detector(*parts(lively(ARCHS[family]), recipe))
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = parameter_groups(model, recipe)
    found = {names[each]: (group["lr"], group["weight_decay"]) for group in groups for each in group["params"]}
    assert found.keys() == set(names.values())
    assert {name: found[name] for name in expected} == expected


@pytest.mark.parametrize("arch", [*ARCHS.values(), "vit_64x4_patch8_64", "vit_64x4_patch14_70"])
def test_the_pyramid_has_five_levels_of_its_strides(arch):
    recipe = RECIPES[family_of(arch).name]
    trunk, pyramid = parts(lively(arch), recipe)
    maps = pyramid(trunk(torch.randn(1, 3, 64, 96)))
    channels = recipe.fpn_channels
    assert [tuple(level.shape[1:]) for level in maps] == [(channels, -(-64 // s), -(-96 // s)) for s in STRIDES]
    assert torch.equal(maps[4], maps[3][:, :, ::2, ::2])


def test_every_parameter_of_trunk_and_pyramid_is_given_a_gradient():
    for family, arch in ARCHS.items():
        trunk, pyramid = parts(lively(arch), RECIPES[family])
        sum(level.square().mean() for level in pyramid(trunk(torch.randn(2, 3, 64, 64)))).backward()
        for part in (trunk, pyramid):
            assert all(parameter.grad is not None for parameter in part.parameters()), family


@pytest.mark.parametrize("family", FAMILIES)
def test_the_notes_list_what_stays_behind_and_what_is_new(family):
    (note,) = notes(ARCHS[family], RECIPES[family])
    assert "norm.weight" in note
    assert ("deconvolutions" if family == "vit" else "layer norm for each") in note


@pytest.mark.parametrize(
    ("family", "arch", "changes", "what", "todo"),
    [
        ("swin", "swin_tiny_window14_224.eps1e-06", {}, "smaller in its last stage", "7 at 224"),
        ("vit", "vit_small_patch32_224", {}, "patches of 32", "run_knn.sh"),
        ("vit", "vit_large_patch16_224", {}, "not that of the last block", "--detector.out-indices 7 11 15 23"),
        ("vit", "vit_base_patch16_224", {}, "not that of the last block", "--detector.out-indices 3 5 7 11"),
        ("convnext", "swin_tiny_window7_224", {}, "not built on a swin_tiny", "run_coco.sh swin_fpn CKPT"),
        ("swin", "convnext_tiny", {}, "not built on a convnext_tiny", "run_coco.sh convnext_fpn CKPT"),
        ("vit", "beit_base_patch16_224", {}, "relative positions of a beit", "run_knn.sh"),
        ("convnext", "beit_base_patch16_224", {}, "not built on a beit", "run_coco.sh vit_fpn CKPT"),
        ("vit", "vit_64x3_patch16_64", {}, "has 3 blocks, and four maps", "a deeper one"),
        (
            "vit",
            "vit_64x5_patch16_64",
            {"out_indices": (0, 1, 2, 3)},
            "the last block",
            "--detector.out-indices 0 1 2 4",
        ),
    ],
)
def test_what_the_form_cannot_hold_is_refused_with_what_to_type(family, arch, changes, what, todo):
    with pytest.raises(UserError, match=what) as caught:
        demand_taken(replace(RECIPES[family], **changes), arch)
    assert todo in caught.value.todo


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"crop_range": (60, 40)}, "crop_range (60, 40) is not in order"),
        ({"crop_sizes": ()}, "crop_sizes is ()"),
        ({"crop_share": 1.5}, "crop_share is 1.5"),
        ({"out_indices": (0, 2, 1, 3)}, "four blocks are needed, in order"),
        ({"out_indices": (1, 3)}, "four blocks are needed, in order"),
        ({"out_indices": (-1, 1, 2, 3)}, "four blocks are needed, in order"),
        ({"layer_decay": 0.0}, "layer_decay is 0.0"),
        ({"giou_weight": -1.0}, "giou_weight is -1.0"),
    ],
)
def test_recipes_that_mean_nothing_are_refused(change, word):
    assert any(word in problem for problem in out_of_range(replace(RECIPES["vit"], **change), 1))


def test_patches_of_14_are_told():
    assert "shrunk to 14/16" in notes("vit_small_patch14_518.ls.offset", RECIPES["vit"])[1]


@pytest.mark.parametrize("arch", [*ARCHS.values(), "vit_64x4_patch8_64", "vit_64x4_patch14_70"])
def test_costs_are_those_of_the_layers(arch):
    """Counted by torch on the modules themselves; of attention, which it does not see, two products a block."""
    from torch.utils.flop_counter import FlopCounterMode

    recipe = RECIPES[family_of(arch).name]
    trunk, pyramid = parts(lively(arch), recipe)
    side = 224 if arch.startswith("swin") else 256
    with torch.no_grad(), FlopCounterMode(display=False) as counted:
        maps = trunk(torch.zeros(1, 3, side, side))
    with torch.no_grad(), FlopCounterMode(display=False) as above:
        pyramid(maps)
    unseen = 0.0
    if arch.startswith("vit"):
        tokens = (side // (8 if "patch8" in arch else 16)) ** 2 + 1
        unseen = 4 * 2 * tokens**2 * 64 / 1e9
    proposals = (side / 4) ** 2 * (4 / 3) * 9 * recipe.fpn_channels**2 / 1e9
    assert trunk_gmacs(arch, side, side) == pytest.approx(counted.get_total_flops() / 2e9 + unseen, rel=0.05)
    assert pyramid_gmacs(arch, recipe, side, side) - proposals == pytest.approx(above.get_total_flops() / 2e9, rel=0.01)


def test_positions_may_be_kept_as_they_are():
    recipe = replace(RECIPES["vit"], train_positions=False)
    trunk, pyramid = parts(lively(ARCHS["vit"]), recipe)
    still = {name for name, parameter in trunk.named_parameters() if not parameter.requires_grad}
    assert still == {"network.pos_embed"}
    model = Detector(trunk, pyramid)
    trained = {id(each) for group in parameter_groups(model, recipe) for each in group["params"]}
    assert id(trunk.network.pos_embed) not in trained
    assert id(trunk.network.cls_token) in trained


def test_new_norms_behind_stages_have_the_networks_own_eps():
    """timm's and the authors' Swin 1e-5, iBOT's 1e-6; ConvNeXt's 1e-6."""
    for arch, eps in (
        ("swin_tiny_window7_224", 1e-5),
        ("swin_tiny_window7_224.eps1e-06", 1e-6),
        ("convnext_atto", 1e-6),
    ):
        _, pyramid = build(options(RECIPES[family_of(arch).name], arch))
        assert {level.eps for level in pyramid.levels} == {eps}


def told(recipe, engine, processes=1):
    return {what: (theirs, here) for what, theirs, here in differences(recipe, engine, processes)}


def test_each_engine_says_what_it_does_otherwise_than_mmdetection_2():
    ours, theirs = told(RECIPES["swin-masks"], "mmdet"), told(RECIPES["swin-masks"], "detectron2")
    assert set(ours) < set(theirs)
    padding = "anchors over the padding of a batch"
    assert padding not in ours  # that is how it was published
    assert theirs[padding] == ("left out", "background samples")
    assert not any("learns" in what for what in theirs)  # its anchors and regions are matched by MMDetection's rule
    for found in (ours, theirs):
        assert "Pillow" in found["resizing of images"][1]
        assert "masks of objects with outlines" in found
    assert "masks of objects with outlines" not in told(RECIPES["swin"], "mmdet")


def test_what_is_known_of_positions_and_norms_of_the_published_runs_is_told():
    recipe = replace(RECIPES["vit"], norm="SyncBN")
    assert "a batch norm over processes" not in told(recipe, "mmdet", 1)
    assert told(recipe, "detectron2", 2)["a batch norm over processes"][0] == "weighs every position"
    assert "42 × 68" in told(recipe, "mmdet")["positions of patches"][0]
    fixed = told(replace(recipe, train_positions=False), "mmdet")["positions of patches"]
    assert fixed == (
        "sines and cosines of 42 × 68 places, not trained, and from there",
        "the checkpoint's, resized, not trained",
    )
