"""ConvNeXts and Swin transformers: shapes, modules, features, and the layouts of their authors."""

from __future__ import annotations

import json
from pathlib import Path

import checkpoint_files as files
import pytest
import torch
from checkpoint_files import in_memory, real_state
from releases.convnets import dinov3, fcmae_run, official, spark, sparse_name, swin, swin_network
from test_vit_originals import TOLERANCE, images, off, weights
from timm.models.convnext import checkpoint_filter_fn as convnext_of_timm
from timm.models.swin_transformer import checkpoint_filter_fn as swin_of_timm

from transfer.checkpoints.backbone import random_backbone
from transfer.checkpoints.families import families, family_of, family_of_names
from transfer.checkpoints.families.convnext import NO_NORM
from transfer.checkpoints.families.swin import parse
from transfer.checkpoints.lints import lints_of
from transfer.classification.trunk import Trunk
from transfer.runtime.errors import CheckpointError, UserError

torch.set_num_threads(1)

CONVNEXT, SWIN = families()["convnext"], families()["swin"]
ATTO, TINY = "convnextv2_atto", "swin_tiny_window7_224"
ARCHS = [*CONVNEXT.offered, *(arch + NO_NORM for arch in CONVNEXT.offered), *SWIN.offered]


@pytest.mark.parametrize("arch", ARCHS)
def test_shapes_are_the_modules_and_lead_back_to_the_architecture(arch):
    family = family_of(arch)
    with torch.device("meta"):
        state = family.build(arch).state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    assert list(shapes.items()) == list(family.shapes(arch).items())
    assert family_of_names(shapes) is family
    assert all(family.owns(name) for name in shapes)
    assert family.nearest(shapes, {"eps": 1e-6} if "eps" in arch else {}) == arch
    assert any(name.startswith(family.markers[0]) for name in shapes)
    assert family.stem in shapes
    assert family.lookalike(shapes) is None


@pytest.mark.parametrize("arch", [ATTO, "convnext_tiny", TINY, "swin_base_window12_384"])
def test_a_lost_or_misshaped_tensor_leaves_the_architecture_as_it_is(arch):
    family = family_of(arch)
    shapes = dict(family.shapes(arch))
    for name, shape in shapes.items():
        assert family.nearest({key: value for key, value in shapes.items() if key != name}, {}) == arch, name
        assert family.nearest(shapes | {name: (*shape, 2)}, {}) == arch, name


@pytest.mark.parametrize(
    ("arch", "published", "side"),
    [
        *(("convnext_tiny", 4.5, 224), ("convnext_small", 8.7, 224), ("convnext_base", 15.4, 224)),
        *(("convnextv2_atto", 0.55, 224), ("convnextv2_huge", 115.0, 224), ("convnext_large", 101.0, 384)),
        *(("swin_tiny_window7_224", 4.5, 224), ("swin_base_window7_224", 15.4, 224)),
        ("swin_base_window12_384", 47.1, 384),
    ],
)
def test_costs_are_those_that_its_authors_publish(arch, published, side):
    # the READMEs of facebookresearch/ConvNeXt, facebookresearch/ConvNeXt-V2 and microsoft/Swin-Transformer
    assert family_of(arch).gmacs(arch, side) == pytest.approx(published, rel=0.012)


@pytest.mark.parametrize(("arch", "side"), [(ATTO, 96), (ATTO + NO_NORM, 96), (TINY, 224)])
def test_features_are_those_of_timm(arch, side):
    family = family_of(arch)
    network = files.torchvision_model(arch, real_state(arch, seed=4))
    images = torch.randn(2, 3, side, side)
    names = [name for name in family.poolings(arch) if name != "grid"]
    with torch.no_grad():
        found = family.features(network, family.outputs(network, images, names), names)
        pooled = network.forward_head(network.forward_features(images), pre_logits=True)
        called = network(images)
    assert {name: tuple(rows.shape) for name, rows in found.items()} == {
        name: (2, family.width(arch, name)) for name in names
    }
    usual = found[family.pooling(arch, "avg")]
    assert torch.allclose(usual, pooled, atol=1e-6)
    assert torch.allclose(usual, called, atol=1e-6)
    if arch == ATTO:
        assert not torch.allclose(found["avg"], found["avg-raw"], atol=1e-2)


def test_the_last_blocks_of_a_swin_are_normed_in_the_last_stage_alone():
    network = files.torchvision_model(TINY, real_state(TINY, seed=4))
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        _, maps = network.forward_intermediates(images, indices=[2, 3])
        last = network.norm(maps[1].permute(0, 2, 3, 1)).mean((1, 2))
        rows = SWIN.features(network, SWIN.outputs(network, images, ["avg4"]), ["avg4"])["avg4"]
    assert rows.shape == (1, 2 * 384 + 2 * 768)
    assert torch.allclose(rows[:, 384:768], maps[0].mean((2, 3)), atol=1e-6)
    assert torch.allclose(rows[:, -768:], last, atol=1e-6)


def test_a_network_of_weights_alone_has_its_indices_and_masks():
    state = real_state(TINY, seed=4)
    network = in_memory(swin(state)).network()
    built = dict(files.torchvision_model(TINY, state).named_buffers())
    buffers = dict(network.named_buffers())
    assert buffers.keys() == built.keys()
    assert len(built) == 12 + 5  # an index a block, a mask where windows shift: none in the last stage
    assert all(torch.equal(buffers[name], built[name]) for name in built)


@pytest.mark.parametrize("arch", [ATTO, pytest.param(TINY, marks=pytest.mark.slow)])
def test_the_trunk_is_proved_and_computes(arch):
    family = family_of(arch)
    trunk = Trunk(random_backbone(arch, 0), family.poolings(arch), torch.device("cpu"))
    rows = trunk(torch.zeros(1, 3, 224, 224, dtype=torch.uint8))
    assert set(trunk.proof.stage_error) == set(family.stages(arch))
    assert {name: row.shape[1] for name, row in rows.items()} == trunk.widths


@pytest.mark.parametrize("arch", [ATTO, ATTO + NO_NORM, TINY])
def test_a_classifier_takes_its_place(arch):
    family = family_of(arch)
    with torch.device("meta"):
        network = family.build(arch)
        network.set_submodule(family.classifier, torch.nn.Linear(family.channels(arch), 5))
        side = family.proof_sides(arch)
        assert network(torch.empty(1, 3, *side)).shape == (1, 5)


def test_sizes_that_cannot_be_taken_are_named():
    with pytest.raises(UserError, match=r"256 × 256 pixels are of another size than a swin_tiny_window7_224"):
        SWIN.demand(TINY, ["avg"], 256, 256)
    with pytest.raises(UserError, match="224 × 448"):
        SWIN.demand(TINY, ["avg"], 224, 448)
    SWIN.demand(TINY, ["avg"], 224, 224)
    with pytest.raises(UserError, match="24 × 64 pixels"):
        CONVNEXT.demand(ATTO, ["avg"], 24, 64)
    with pytest.raises(UserError, match="6 × 6 windows"):
        CONVNEXT.demand(ATTO, ["avg", "grid"], 200, 200)  # a ResNet, which pads, has a 7 × 7 map there
    CONVNEXT.demand(ATTO, ["avg", "grid"], 224, 240)


def test_names_say_what_windows_and_norms_are():
    assert parse("swin_tiny_window14_224.eps1e-06").windows == (14, 14, 14, 7)
    assert parse("swin_base_window12_192").windows == (12, 12, 12, 6)
    for bad in (
        "swin_tiny_window9_224",
        "swin_tiny_window7_225",
        "swin_tiny_window7_224.eps1e-05",
        "swin_s_window7_224",
    ):
        assert parse(bad) is None
    with torch.device("meta"):
        network = SWIN.build("swin_tiny_window7_224.eps1e-06")
    assert {module.eps for module in network.modules() if isinstance(module, torch.nn.LayerNorm)} == {1e-6}
    assert CONVNEXT.poolings(ATTO + NO_NORM) == ("avg-raw", "max", "grid")
    assert [SWIN.pooling(TINY, name) for name in ("avg", "grid", "avg4")] == ["avg", "avg", "avg4"]


@pytest.mark.parametrize(
    ("arch", "changed", "says"),
    [
        ("convnext_tiny", {"stem.0.weight": (64, 3, 3, 3)}, "overlapping patches"),
        ("convnext_tiny", {"stem.0.weight": (96, 4, 4, 4)}, "4 input channels"),
        ("convnext_tiny", {"norm_pre.weight": (768,)}, "before the average"),
        ("convnext_large", {"head.pre_logits.fc.weight": (1536, 1536)}, "another layer behind its norm"),
        (TINY, {"layers.0.blocks.0.attn.logit_scale": (3, 1, 1)}, "second version"),
        (TINY, {"absolute_pos_embed": (1, 3136, 96)}, "absolute positions"),
    ],
)
def test_relatives_are_named(arch, changed, says):
    family = family_of(arch)
    assert says in family.lookalike(dict(family.shapes(arch)) | changed)


def test_windows_that_fit_no_map_are_refused():
    shapes = {name: (17**2, shape[1]) if name.endswith("table") else shape for name, shape in SWIN.shapes(TINY).items()}
    assert SWIN.nearest(shapes, {}) == "swin_tiny_window9_288"  # which divides
    shapes |= {name: (13**2, 24) for name in shapes if name.startswith("layers.3.") and name.endswith("table")}
    with pytest.raises(CheckpointError, match="windows divide no map"):
        SWIN.nearest(shapes, {})
    with pytest.raises(CheckpointError, match="tables of relative positions"):
        SWIN.nearest({name: shape for name, shape in shapes.items() if not name.endswith("table")}, {})


def test_authors_layouts_are_read_as_timm_reads_them():
    state = real_state(ATTO, seed=3)
    own = files.without_fc(state)
    backbone = in_memory({"model": official(state)})
    other = convnext_of_timm({"model": official(state)}, files.torchvision_model(ATTO, state))
    assert other.keys() == own.keys() == backbone.state.keys()
    assert all(torch.equal(backbone.state[name], other[name]) for name in own)
    state = real_state(TINY, seed=3)
    backbone, own = in_memory(swin(state)), files.without_fc(state)
    other = swin_of_timm(swin(state), files.torchvision_model(TINY, state))
    assert all(torch.equal(backbone.state[name], other[name]) for name in own)


def test_a_sparse_kernel_becomes_the_dense_one_that_computes_the_same():
    arch = ATTO + NO_NORM
    state = real_state(arch, seed=3)
    tree = fcmae_run(state)
    kernel = tree["model"]["encoder.stages.0.0.dwconv.kernel"]
    backbone = in_memory(tree)
    # its places go down a column before they go to the next (facebookresearch/ConvNeXt-V2: utils.py)
    weight = backbone.state["stages.0.blocks.0.conv_dw.weight"]
    assert torch.equal(weight[:, 0, 3, 1], kernel[1 * 7 + 3])
    assert all(torch.equal(backbone.state[name], tensor) for name, tensor in files.without_fc(state).items())
    del tree["model"]["encoder." + sparse_name("stages.1.downsample.1.weight")]
    with pytest.raises(CheckpointError, match=r"1 missing: stages\.1\.downsample\.1\.weight"):
        in_memory(tree)


def test_a_response_norm_of_another_size_is_named_as_in_the_file():
    weights = official(files.cheap_state(ATTO))
    weights["stages.0.1.grn.beta"] = torch.zeros(1, 1, 1, 161)
    with pytest.raises(CheckpointError, match=r"stages\.0\.1\.grn\.beta in the file"):
        in_memory({"model": weights})


def test_two_final_norms_must_be_one():
    weights = dinov3(files.cheap_state("convnext_tiny"))
    weights["norms.3.weight"] = weights["norms.3.weight"] + 1
    with pytest.raises(CheckpointError, match=r"norms\.3\.weight is not equal to norm\.weight"):
        in_memory(weights)


def test_spark_keeps_resnets_and_convnexts_in_one_layout():
    for arch, encoder in (
        ("resnet18", files.without_fc(files.cheap_state("resnet18"))),
        ("convnext_tiny.nonorm", official(files.cheap_state("convnext_tiny.nonorm"))),
    ):
        backbone = in_memory(spark(encoder))
        assert (backbone.arch, backbone.source.format) == (arch, "spark")


def test_a_swin_of_its_authors_is_not_read_under_timms_names():
    network = swin_network(files.cheap_state(TINY))
    backbone = in_memory({"state_dict": network})
    assert backbone.source.format == "swin"
    assert "assumed-eps" in {lint.code for lint in backbone.lints}
    under_timms = in_memory({"model": files.without_fc(files.cheap_state(TINY))})
    assert under_timms.source.format == "plain"
    assert any("eps of its norms" in note for note in under_timms.notes)


@pytest.mark.parametrize("arch", [ATTO, "convnext_atto", TINY])
def test_an_untrained_network_is_told(arch):
    assert "initialisation" in {lint.code for lint in lints_of(random_backbone(arch, 0))}


ORIGINALS = json.loads(Path(__file__).with_name("convnet_originals.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", ORIGINALS)
def test_it_computes_what_the_original_class_computed(case):
    """Numbers made as those of `test_vit_originals.py`.

    By facebookresearch/ConvNeXt-V2 2553895, models/convnextv2.py, and microsoft/Swin-Transformer f82860b,
    models/swin_transformer.py: forward_features.
    """
    arch, size, wanted = (ORIGINALS[case][key] for key in ("arch", "size", "outputs"))
    family = family_of(arch)
    with torch.device("meta"):
        module = family.build(arch)
    module = module.to_empty(device="cpu")
    module.load_state_dict(weights(family.shapes(arch)))
    module.eval()
    with torch.no_grad():
        found = family.features(module, family.outputs(module, images(*size), ("avg",)), ("avg",))
        found |= {"network": module(images(*size))}
    for name, values in wanted.items():
        assert off(found[name], values) < TOLERANCE, name
