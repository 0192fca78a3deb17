"""Names, tensors and refusals of vision transformers; what they compute is compared in `test_vit_originals`."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_vit_originals import images, network, outputs, weights

from transfer.checkpoints.families import family_of, family_of_names
from transfer.checkpoints.families.vit import (
    FAMILY,
    POSITIONS,
    SIZES,
    Vit,
    expected_shapes,
    gated,
    parse,
    positions,
    sines,
)
from transfer.runtime.errors import CheckpointError, UserError

OTHERS = (
    "vit_small_patch16_224.h12",  # MoCo v3
    "vit_base_patch16_224.offset",  # DINO
    "vit_base_patch14_518.reg4.ls.antialias",  # DINOv2
    "vit_giant2_patch14_518.ls.offset",
    "vit_large_patch14_224.swiglu.ls.offset",  # DINOv2's own training of a large one
    "vit_giant_patch16_224.nocls",  # I-JEPA
    "vit_huge_patch16_448.nocls",
    "vit_base_patch16_224.fcnorm",  # MAE, fine-tuned
    "vit_large_patch7_224",  # MSN
    "vit_base_patch16_224.eps1e-12",  # Hugging Face
    "vit_base_patch16_224.eps1e-03",
    "vit_base_patch16_224.corners",  # torchvision
    "vit_tiny_patch16_224.nobias.nonorm",
    "vit_192x4_patch16_96.h2.m512",
    "vit_1536x40_patch14_224.ls",  # as wide and deep as giant2, without its gates
    "vit_28x1_patch4_8.h7.m488",  # 28 × (488 / 28) is less than 488 in floating point
    "vit_64x2_patch8_32.h4.swiglu.m100.nocls.reg3.ls.nobias.fcnorm.eps1e-05.antialias",
)
KNOWN = (*FAMILY.offered, *OTHERS)
NO_NAMES = (
    "vit",
    "vit_small",
    "vit_small_patch16_225",  # no multiple
    "vit_small_patch0_224",
    "vit_small_patch16_224.",
    "vit_small_patch16_224.h6",  # what the plain name says
    "vit_small_patch16_224.h7",
    "vit_small_patch16_224.h0",
    "vit_small_patch16_224.eps1e-06",
    "vit_small_patch16_224.offset.ls",  # another order
    "vit_small_patch16_224.reg0",
    "vit_small_patch16_224.size",
    "vit_small_patch16_224.rope",
    "vit_small_patch016_224",
    "vit_384x12_patch16_224",  # small
    "vit_mini_patch16_224",
)
TINY = Vit(64, 2, 4, 256, 8, 32)


def facts_of(vit: Vit) -> dict[str, object]:
    """What no shape shows."""
    return {"heads": vit.heads, "eps": vit.eps, "positions": vit.positions}


@pytest.mark.parametrize("arch", KNOWN)
def test_a_name_says_all_numbers_and_they_say_the_name(arch):
    vit = parse(arch)
    assert vit is not None
    assert vit.arch == arch
    assert family_of(arch) is FAMILY


@pytest.mark.parametrize("arch", NO_NAMES)
def test_what_is_no_name_or_a_second_one_is_unknown(arch):
    assert parse(arch) is None
    with pytest.raises(CheckpointError, match="unknown architecture"):
        family_of(arch)


@pytest.mark.parametrize("arch", KNOWN)
def test_shapes_are_the_modules(arch):
    with torch.device("meta"):
        state = FAMILY.build(arch).state_dict()
    assert [(name, tuple(tensor.shape)) for name, tensor in state.items()] == list(FAMILY.shapes(arch).items())
    assert family_of_names(state) is FAMILY


@pytest.mark.parametrize("arch", KNOWN)
def test_tensors_and_facts_say_the_name(arch):
    vit = parse(arch)
    assert vit
    assert FAMILY.nearest(FAMILY.shapes(arch), facts_of(vit)) == arch


def test_without_facts_the_usual_is_assumed():
    assert FAMILY.nearest(FAMILY.shapes("vit_small_patch16_224.h12.offset"), {}) == "vit_small_patch16_224"


@st.composite
def vits(draw: st.DrawFn) -> Vit:
    size = draw(st.sampled_from([*SIZES, "own"]))
    width, depth = draw(st.tuples(st.integers(1, 64), st.integers(1, 3))) if size == "own" else SIZES[size][:2]
    divisors = [heads for heads in range(1, width + 1) if width % heads == 0]
    swiglu, patch = draw(st.booleans()), draw(st.integers(1, 32))
    usual = [4 * width, gated(width), *(SIZES[size][3:4] if size in SIZES else ())]
    return Vit(
        width,
        depth,
        draw(st.sampled_from(divisors)),
        draw(st.sampled_from(usual) | st.integers(1, 9000)),
        patch,
        patch * draw(st.integers(1, 40)),
        swiglu,
        draw(st.booleans()),
        draw(st.integers(0, 9)),
        draw(st.booleans()),
        draw(st.booleans()),
        draw(st.sampled_from(("tokens", "pooled", "none"))),
        float(f"{draw(st.integers(1, 9))}e-{draw(st.integers(1, 14))}"),
        draw(st.sampled_from(POSITIONS)),
    )


@given(vits())
@settings(max_examples=200, deadline=None)
def test_any_numbers_have_a_name_that_says_them(vit):
    assert parse(vit.arch) == vit
    shapes = expected_shapes(vit.arch)
    assert FAMILY.nearest(shapes, facts_of(vit)) == vit.arch
    assert all(map(FAMILY.owns, shapes))
    for pooling in FAMILY.poolings(vit.arch):
        assert FAMILY.width(vit.arch, pooling) % vit.width == 0


def refused(shapes: dict[str, tuple[int, ...]], **facts: object) -> str:
    with pytest.raises(CheckpointError) as error:
        FAMILY.nearest(shapes, facts)
    return str(error.value)


def test_a_cls_token_and_its_position_come_together():
    shapes = dict(FAMILY.shapes(TINY.arch))
    without = refused(shapes | {"pos_embed": (1, 16, 64)})
    assert "has a CLS token and no position for it" in without
    assert "pos_embed is (1, 16, 64), and 16 is 4²" in without
    del shapes["cls_token"]
    assert "17 is 4² + 1" in refused(shapes)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"pos_embed": (1, 20, 64)}, "no square grid"),
        ({"pos_embed": (1, 0, 64)}, "no square grid"),
        ({"pos_embed": (17,)}, "without positions"),
        ({"pos_embed": None}, "without positions"),
        ({"patch_embed.proj.weight": (64, 3, 8, 16)}, "without square patches"),
        ({"patch_embed.proj.weight": (64, 1, 8, 8)}, "without square patches"),
        ({"patch_embed.proj.weight": (64, 192)}, "without square patches"),
        ({"patch_embed.proj.weight": None}, "without square patches"),
    ],
)
def test_stems_and_positions_of_another_kind_are_refused(changes, reason):
    shapes = {name: shape for name, shape in (FAMILY.shapes(TINY.arch) | changes).items() if shape is not None}
    assert reason in refused(shapes)


def test_what_no_tensor_shows_must_fit_the_tensors():
    shapes = dict(FAMILY.shapes(TINY.arch))
    assert "64 is no multiple of 7" in refused(shapes, heads=7)
    assert "eps of 1.5e-06" in refused(shapes, eps=1.5e-6)
    assert "holds no whole block" in refused({name: shape for name, shape in shapes.items() if "blocks" not in name})


def test_heads_leave_no_trace_in_the_tensors_and_change_what_is_computed():
    six, twelve = "vit_384x2_patch16_32", "vit_384x2_patch16_32.h12"
    assert FAMILY.shapes(six) == FAMILY.shapes(twelve)
    one, other = outputs(six, 32, 32)["cls"], outputs(twelve, 32, 32)["cls"]
    assert (one - other).abs().max() > 0.1


def test_an_image_of_whole_patches_is_demanded():
    arch = "vit_small_patch14_518.ls.offset"
    for side in (14, 224, 518):
        FAMILY.demand(arch, ("cls",), side, 518)
    with pytest.raises(UserError, match=r"256 × 252 .* of 14(.|\n)*252 or 266"):
        FAMILY.demand(arch, ("cls",), 256, 252)
    with pytest.raises(UserError, match="crop of 14 or 28"):
        FAMILY.demand(arch, ("cls",), 0, 224)


@pytest.mark.parametrize("rule", ["", ".offset", ".antialias"])
@pytest.mark.parametrize(("height", "width"), [(24, 40), (8, 8), (64, 72)])
def test_any_image_of_whole_patches_has_its_tokens(rule, height, width):
    found = outputs(f"vit_64x2_patch8_32.h4.reg2{rule}", height, width)
    assert found["tokens"].shape == (2, 3 + height * width // 64, 64)


@pytest.mark.parametrize("grid", [7, 14, 16, 37])
@pytest.mark.parametrize("rule", POSITIONS)
def test_positions_are_resized_to_any_grid(grid, rule):
    """The factor's rounding must never give another number of positions."""
    vit = Vit(4, 1, 1, 4, 1, grid, positions=rule)
    table = torch.arange(1.0 + grid**2)[None, :, None].expand(-1, -1, 4)
    for side in range(1, 80):
        resized = positions(table, vit, side, 80 - side)
        assert resized.shape == (1, 1 + side * (80 - side), 4)
        assert torch.equal(resized[:, 0], table[:, 0])


@pytest.mark.parametrize(
    ("norm", "cls", "depth", "names"),
    [
        ("tokens", True, 4, ("cls", "patches", "cls+patches", "cls4", "cls4+patches", "patches4")),
        ("tokens", True, 3, ("cls", "patches", "cls+patches")),
        ("tokens", False, 4, ("patches", "patches4")),
        ("pooled", True, 4, ("patches",)),
        ("none", True, 4, ()),
    ],
)
def test_no_feature_needs_a_norm_a_token_or_blocks_that_there_are_not(norm, cls, depth, names):
    arch = Vit(64, depth, 4, 256, 8, 32, cls=cls, norm=norm).arch
    assert tuple(name for name in FAMILY.poolings(arch) if not name.endswith("-raw")) == names
    assert FAMILY.pooling(arch, "avg") == FAMILY.poolings(arch)[0]
    found = outputs(arch, 32, 32)
    for name in FAMILY.poolings(arch):
        assert found[name].shape == (2, FAMILY.width(arch, name))
        assert found[name].dtype == torch.float32


def test_a_network_without_its_classifier_gives_the_first_feature():
    for arch in ("vit_64x2_patch8_32.h4", "vit_64x2_patch8_32.h4.nocls", "vit_64x2_patch8_32.h4.fcnorm"):
        found = outputs(arch, 32, 32)
        assert torch.allclose(found["network"], found[FAMILY.poolings(arch)[0]], atol=1e-6)


def codes(arch: str, state: dict[str, torch.Tensor]) -> dict[str, str]:
    return dict(FAMILY.lints(arch, state))


@pytest.mark.parametrize(("kind", "columns_first"), [("MAE", True), ("MoCo v3", False)])
@pytest.mark.parametrize("cls", [True, False])
def test_fixed_positions_are_told_by_their_order(kind, columns_first, cls):
    vit = Vit(64, 1, 4, 256, 16, 224, cls=cls)
    table = sines(vit, columns_first).float()[None]
    state = weights(expected_shapes(vit.arch)) | {
        "pos_embed": torch.cat([torch.zeros(1, int(cls), 64), table], 1),
    }
    assert codes(vit.arch, state)["positions"].endswith(f"in the order of {kind}")
    assert "positions" not in codes(vit.arch, state | {"pos_embed": state["pos_embed"] + 0.001})
    assert "positions" not in codes(vit.arch, weights(expected_shapes(vit.arch)))


def test_moco_v3s_positions_with_six_heads_are_a_mistake():
    small = Vit(384, 1, 6, 1536, 16, 224)
    state = weights(expected_shapes(small.arch))
    for order, heads, told in ((False, 6, True), (False, 12, False), (True, 6, False)):
        vit = Vit(384, 1, heads, 1536, 16, 224)
        table = torch.cat([torch.zeros(1, 384), sines(vit, order).float()])[None]
        assert ("heads" in codes(vit.arch, state | {"pos_embed": table})) == told


def test_an_untrained_file_is_told():
    state = FAMILY.build(TINY.arch).state_dict()
    assert "initialisation" in codes(TINY.arch, state)
    assert "initialisation" not in codes(TINY.arch, weights(FAMILY.shapes(TINY.arch)))


def test_multiplications_are_counted():
    """Against torch's own count, which takes two operations for one, and sees no fused attention of a CPU."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    for arch in ("vit_64x2_patch8_32.h4", "vit_64x2_patch8_32.h4.swiglu.nocls.reg3"):
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
            network(arch)(images(32, 32)[:1])
        assert math.isclose(counter.get_total_flops() / 2e9, FAMILY.gmacs(arch, 32), rel_tol=1e-6)
