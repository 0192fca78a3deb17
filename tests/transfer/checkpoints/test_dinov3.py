"""DINOv3's transformers: names, tensors, the numbers that the authors' own class computed, and what of files is read.

`dinov3_originals.json` was made as `vit_originals.json` (see `test_vit_originals.py`), by facebookresearch/dinov3
6876159, dinov3/models/vision_transformer.py, with keys' bias 7 and masked: forward_features, forward,
get_intermediate_layers.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from checkpoint_files import in_memory
from releases.dinov3 import released, transformers
from safetensors.torch import save_file
from test_vit_libraries import filled
from test_vit_originals import TOLERANCE, images, off, weights

from transfer.checkpoints.backbone import random_backbone
from transfer.checkpoints.families import family_of, family_of_names
from transfer.checkpoints.families.dinov3 import FAMILY, parse, periods
from transfer.checkpoints.read import read_backbone
from transfer.checkpoints.write import convert
from transfer.runtime.errors import CheckpointError

CASES = json.loads(Path(__file__).with_name("dinov3_originals.json").read_text(encoding="utf-8"))
RUNS = [(case, side) for case, facts in CASES.items() for side in facts["outputs"]]
ARCHS = [
    *FAMILY.offered,
    "dinov3_small_patch16.swiglu",
    "dinov3_huge_patch16",
    "dinov3_giant_patch16",
    "dinov3_base_patch16.nobias",
    "dinov3_128x3_patch8.swiglu.m256.h4.reg2",
]
SMALL = "dinov3_128x2_patch16"


@pytest.mark.parametrize("arch", ARCHS)
def test_a_name_says_all_of_it(arch):
    known = parse(arch)
    assert known is not None
    assert known.arch == arch
    assert family_of(arch) is FAMILY
    with torch.device("meta"):
        module = FAMILY.build(arch)
    shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    assert dict(shapes) == dict(FAMILY.shapes(arch))
    assert FAMILY.nearest(shapes, {}) == arch
    assert family_of_names(shapes) is FAMILY


@pytest.mark.parametrize(
    "arch", ["dinov3_tiny_patch16", "dinov3_small_patch16.h5", "dinov3_huge_patch16.swiglu", "dinov3_64x2_patch16.m100"]
)
def test_other_names_are_none(arch):
    assert parse(arch) is None


def network(arch):
    with torch.device("meta"):
        module = FAMILY.build(arch)
    module = module.to_empty(device="cpu")
    state = weights(FAMILY.shapes(arch))
    module.load_state_dict(state | {"rope.periods": periods(64)})
    return module.eval()


@pytest.mark.parametrize(("case", "side"), RUNS)
def test_it_computes_what_the_original_class_computed(case, side):
    arch, wanted = CASES[case]["arch"], CASES[case]["outputs"][side]
    module, names = network(arch), ("cls", "patches", "cls4")
    seen = images(*map(int, side.split("x")))
    with torch.no_grad():
        tokens = FAMILY.outputs(module, seen, names)
        found = FAMILY.features(module, tokens, names) | {"tokens": tokens[1][-1]}
        torch.testing.assert_close(module(seen), found["cls"], rtol=1e-4, atol=1e-5)
    for name, values in wanted.items():
        assert off(found[name], values) < TOLERANCE, name


@pytest.mark.parametrize("changed", ["blocks.1.gamma_2", "blocks.2.attn.v_bias", "blocks.0.attn.q_bias", "reg_token"])
def test_every_kind_of_tensor_moves_the_numbers(changed):
    arch, wanted = CASES["DINOv3"]["arch"], CASES["DINOv3"]["outputs"]["64x64"]
    module = network(arch)
    with torch.no_grad():
        module.get_parameter(changed).mul_(-1)
        assert off(FAMILY.outputs(module, images(64, 64), ("cls",))[1][-1], wanted["tokens"]) > 10 * TOLERANCE


def test_the_files_periods_are_those_that_turn():
    """A file may hold them rounded to bf16, as the network was trained."""
    backbone = random_backbone(SMALL, 0)
    tree = released(dict(backbone.state))
    rounded = periods(64).bfloat16()
    tree["rope_embed.periods"] = rounded
    read = in_memory(tree)
    assert torch.equal(read.state["rope.periods"], rounded.float())
    with torch.no_grad():
        plain, other = (each.network().eval()(images(64, 64)) for each in (backbone, read))
    assert not torch.equal(plain, other)


def test_queries_and_values_keep_their_biases_and_keys_have_none():
    backbone = random_backbone(SMALL, 0)
    state = dict(backbone.state)
    state["blocks.1.attn.q_bias"] = torch.full((128,), 0.25)
    state["blocks.1.attn.v_bias"] = torch.full((128,), 0.5)
    read = in_memory(released(state))
    assert torch.equal(read.state["blocks.1.attn.q_bias"], state["blocks.1.attn.q_bias"])
    assert torch.equal(read.state["blocks.1.attn.v_bias"], state["blocks.1.attn.v_bias"])
    assert not any("qkv.bias" in name for name in read.state)


def with_bias_of_keys(tree):
    for name in [name for name in tree if name.endswith("bias_mask")]:
        del tree[name]


def with_another_mask(tree):
    tree["blocks.0.attn.qkv.bias_mask"] = torch.ones(384)


def with_untied_norms(tree):
    tree["cls_norm.weight"] = torch.ones(128)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (with_bias_of_keys, "has a bias of its keys"),
        (with_another_mask, "masks something else"),
        (with_untied_norms, "norms of their own"),
    ],
)
def test_files_that_would_compute_something_else_are_refused(change, words):
    tree = released(dict(random_backbone(SMALL, 0).state))
    change(tree)
    with pytest.raises(CheckpointError, match=words):
        in_memory(tree)


def test_no_mask_is_in_order_where_keys_bias_is_zero():
    state = dict(random_backbone(SMALL, 0).state)
    tree = released(state, keys=0.0)
    with_bias_of_keys(tree)
    assert in_memory(tree).arch == SMALL


@pytest.mark.parametrize(("arch", "said"), [("dinov3_small_patch16", False), ("dinov3_large_patch16", True)])
def test_sizes_that_exist_of_two_kinds_of_images_are_told(arch, said):
    with torch.device("meta"):
        state = {name: torch.empty(shape) for name, shape in FAMILY.shapes(arch).items()}
    small = {name: torch.zeros(1).expand(tensor.shape) for name, tensor in state.items()}
    lints = [lint.text for lint in in_memory(released(small)).lints]
    assert any("SAT-493M" in text for text in lints) == said


def test_timms_file_without_periods_is_taken_with_those_of_the_paper(tmp_path):
    backbone = random_backbone(SMALL, 0)
    state = {name: tensor for name, tensor in backbone.state.items() if name != "rope.periods"}
    torch.save(state, tmp_path / "timm.pth")
    read = read_backbone(tmp_path / "timm.pth")
    assert read.arch == SMALL
    assert torch.equal(read.state["rope.periods"], periods(64))
    for told in ("satellite", "lacks the periods"):
        assert any(told in remark for remark in read.remarks())


@pytest.mark.parametrize("arch", [SMALL, "dinov3_128x2_patch16.swiglu.m256.reg2"])
def test_there_and_back_it_is_the_same(arch, tmp_path):
    torch.save(released(dict(random_backbone(arch, 0).state)), tmp_path / "file.pth")
    for to, end in (("timm", ".pth"), ("safetensors", ".safetensors")):
        convert(tmp_path / "file.pth", to, tmp_path / f"out{end}")
        back, first = read_backbone(tmp_path / f"out{end}"), read_backbone(tmp_path / "file.pth")
        assert back.arch == first.arch == arch
        assert all(torch.equal(tensor, back.state[name]) for name, tensor in first.state.items())
    with pytest.raises(CheckpointError, match="no such network"):
        convert(tmp_path / "file.pth", "detectron2", tmp_path / "out.pkl")


def test_other_periods_stay_in_a_file_for_timm_and_are_read_back(tmp_path):
    tree = released(dict(random_backbone(SMALL, 0).state))
    tree["rope_embed.periods"] = 2 * periods(64)
    torch.save(tree, tmp_path / "file.pth")
    convert(tmp_path / "file.pth", "timm", tmp_path / "out.pth")
    assert torch.equal(torch.load(tmp_path / "out.pth", weights_only=True)["rope.periods"], 2 * periods(64))
    assert torch.equal(read_backbone(tmp_path / "out.pth").state["rope.periods"], 2 * periods(64))


def test_timms_own_class_takes_what_is_written_for_it(tmp_path):
    import timm

    torch.save(released(dict(random_backbone("dinov3_small_patch16", 0).state)), tmp_path / "file.pth")
    convert(tmp_path / "file.pth", "timm", tmp_path / "out.pth")
    model = timm.create_model("vit_small_patch16_dinov3_qkvb", num_classes=0, global_pool="token").eval()
    model.load_state_dict(torch.load(tmp_path / "out.pth", weights_only=True))
    backbone = read_backbone(tmp_path / "file.pth")
    with torch.no_grad():
        seen = images(96, 160)
        torch.testing.assert_close(backbone.network().eval()(seen), model(seen), rtol=1e-4, atol=1e-5)


CONFIG = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "hidden_act": "gelu"}
GATED = {"hidden_act": "silu", "use_gated_mlp": True}


def with_config(folder, arch=SMALL, **config):
    tree = transformers(dict(random_backbone(arch, 0).state))
    save_file({name: tensor.contiguous() for name, tensor in tree.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIG | config), encoding="utf-8")
    return read_backbone(folder / "model.safetensors")


def test_config_json_says_heads_and_periods(tmp_path):
    told = with_config(tmp_path, rope_theta=100.0)
    assert told.arch == SMALL
    assert "periods" not in {lint.code for lint in told.lints}
    other = with_config(tmp_path, rope_theta=10000.0, num_attention_heads=4)
    assert other.arch == f"{SMALL}.h4"
    assert torch.equal(other.state["rope.periods"], periods(32, 10000.0))


@pytest.mark.parametrize("config", [{"layer_norm_eps": 1e-6}, {"hidden_act": "relu"}, GATED | {"hidden_act": "gelu"}])
def test_a_configuration_that_cannot_be_built_is_refused(tmp_path, config):
    arch = f"{SMALL}.swiglu" if "use_gated_mlp" in config else SMALL
    with pytest.raises(CheckpointError, match="would compute something else"):
        with_config(tmp_path, arch, **config)


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("saved", ["save_pretrained", "state_dict"])
def test_transformers_own_class_computes_the_same(tmp_path, gated, saved):
    library = pytest.importorskip("transformers")
    more = CONFIG | (GATED if gated else {}) | {"intermediate_size": 256, "num_register_tokens": 3}
    own = filled(library.DINOv3ViTModel(library.DINOv3ViTConfig(**more, attn_implementation="eager")))
    own.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    if saved == "state_dict":
        path = tmp_path / "state.pth"
        torch.save(own.state_dict(), path)
    backbone = read_backbone(path)
    assert backbone.arch == f"{SMALL}{'.swiglu' if gated else ''}.m256.reg3"
    for sides in ((64, 64), (96, 160)):
        seen = images(*sides)
        with torch.no_grad():
            tokens = FAMILY.outputs(backbone.network().eval(), seen, ("cls",))[1][-1]
            torch.testing.assert_close(tokens, own(seen).last_hidden_state, rtol=1e-4, atol=1e-5)
