"""BEiT's transformers: names, tensors, and the numbers that the authors' own classes computed.

`beit_originals.json` was made as `vit_originals.json` (see `test_vit_originals.py`), by microsoft/unilm 768a3c8,
beit/modeling_pretrain.py (forward_features, nothing masked) and beit/modeling_finetune.py (with the average of patches,
and with the CLS token and absolute positions).
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from test_vit_originals import TOLERANCE, images, off, weights

from transfer.checkpoints.backbone import random_backbone
from transfer.checkpoints.families import family_of, family_of_names
from transfer.checkpoints.families.beit import FAMILY, parse
from transfer.runtime.errors import CheckpointError, UserError

CASES = json.loads(Path(__file__).with_name("beit_originals.json").read_text(encoding="utf-8"))
ARCHS = [
    *FAMILY.offered,
    "beit_base_patch16_224.shared",
    "beit_base_patch16_384.fcnorm",
    "beit_large_patch16_224.norel.abs",
    "beit_small_patch16_224.h12.norel.abs.noscale",
    "beit_128x3_patch8_32.m256.nobias.nonorm",
]


@pytest.mark.parametrize("arch", ARCHS)
def test_a_name_says_all_of_it(arch):
    known = parse(arch)
    assert known is not None
    assert known.arch == arch
    assert family_of(arch) is FAMILY
    with torch.device("meta"):
        module = FAMILY.build(arch)
    shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    assert list(shapes.items()) == list(FAMILY.shapes(arch).items())
    assert FAMILY.nearest(shapes, {"heads_of": {384: 12}}) == arch
    assert family_of_names(shapes) is FAMILY or "nobias" in arch  # without biases and tables its names are a ViT's


@pytest.mark.parametrize("arch", ["beit_base_patch16_224.abs.shared", "beit_base_patch15_224", "beit_huge_patch14_224"])
def test_other_names_are_none(arch):
    assert parse(arch) is None


def network(arch):
    with torch.device("meta"):
        module = FAMILY.build(arch)
    module = module.to_empty(device="cpu")
    module.load_state_dict(weights(FAMILY.shapes(arch)))
    return module.eval()


@pytest.mark.parametrize("case", CASES)
def test_it_computes_what_the_original_class_computed(case):
    arch, wanted = CASES[case]["arch"], CASES[case]["outputs"]
    module, names = network(arch), FAMILY.poolings(arch)
    with torch.no_grad():
        tokens = FAMILY.outputs(module, images(64, 64), names)
        found = FAMILY.features(module, tokens, names)
        found |= {"tokens": tokens[1][-1], "network": module(images(64, 64))}
    for name, values in wanted.items():
        assert off(found[name], values) < TOLERANCE, name


@pytest.mark.parametrize(
    "changed", ["rel_pos_bias.relative_position_bias_table", "blocks.2.attn.v_bias", "blocks.1.gamma_2"]
)
def test_every_kind_of_tensor_moves_the_numbers(changed):
    arch, wanted = CASES["BEiT, pretrained"]["arch"], CASES["BEiT, pretrained"]["outputs"]
    module = network(arch)
    with torch.no_grad():
        module.get_parameter(changed).mul_(-1)
        tokens = FAMILY.outputs(module, images(64, 64), ("cls",))
    assert off(tokens[1][-1], wanted["tokens"]) > 10 * TOLERANCE


def test_a_network_is_rebuilt_with_all_that_its_file_lacks():
    backbone = random_backbone("beit_64x2_patch8_32", 0)
    with torch.no_grad():
        torch.testing.assert_close(
            backbone.network()(images(32, 32)), backbone.network()(images(32, 32)), rtol=0, atol=0
        )
    other = backbone.network()
    assert torch.equal(other.blocks[0].attn.relative_position_index[0, 1:], torch.full((16,), 49))
    assert not other.blocks[1].attn.k_bias.any()


def test_other_sizes_and_tables_of_no_grid_are_refused():
    with pytest.raises(UserError, match="takes images of 224 × 224 pixels alone"):
        FAMILY.demand("beit_base_patch16_224", ("cls",), 256, 256)
    shapes = dict(FAMILY.shapes("beit_base_patch16_224.shared"))
    shapes["rel_pos_bias.relative_position_bias_table"] = (733, 12)
    with pytest.raises(CheckpointError, match="fits no square grid"):
        FAMILY.nearest(shapes, {})
