"""The family's vision transformers against numbers that the authors' own classes computed.

`vit_originals.json` holds, for each method, an architecture's name and, for images of two or three sizes, what the
class of its repository made of them: twelve values of every output, evenly spaced, its mean and its sum of squares. The
weights are made by `weights`, under the family's names, and were put into the original class under that one's names;
the images by `images`. The classes were called as their authors' evaluations call them:

- facebookresearch/dino 7c446df, vision_transformer.py: forward, get_intermediate_layers (eval_linear.py);
- facebookresearch/dinov2 b8931f7, dinov2/models/vision_transformer.py: forward_features, get_intermediate_layers, and
  create_linear_input (dinov2/eval/linear.py), with the settings of dinov2/hub/backbones.py without and with registers,
  with its gated MLP, and with chunks of blocks and the sizes of one's own training;
- facebookresearch/mae efb2a80 with timm 0.3.2: models_mae.py, forward_encoder with nothing masked; models_vit.py at the
  other size, after util/pos_embed.py's interpolate_pos_embed, and with global_pool;
- facebookresearch/moco-v3 c349e6e with timm 0.4.9, vits.py with twelve heads, which runs at the training size alone;
- facebookresearch/msn 4388dc1, src/deit.py: forward_features, forward_blocks, forward_return_n_last_blocks;
- facebookresearch/ijepa 52c1ae9, src/models/vision_transformer.py, which runs at the training size alone;
- bytedance/ibot da316d8, models/vision_transformer.py, with layer scale;
- sail-sg/mugs 10ab634, src/vision_transformer.py: forward_knn.

What is added to the tokens is a hundredth of what networks usually have, so that a norm's eps of 1e-6 shows: next to a
variance of about 1e-4 it moves outputs by more than the tolerance, and another eps moves them elsewhere.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from transfer.checkpoints.families import Shape
from transfer.checkpoints.families.vit import FAMILY, parse, sines

ORIGINALS = json.loads(Path(__file__).with_name("vit_originals.json").read_text(encoding="utf-8"))
CASES = ORIGINALS["cases"]
RUNS = [(case, side) for case, facts in CASES.items() for side in facts["outputs"]]
TOLERANCE = 1e-4  # of an output's root mean square
ADDED = ("cls_token", "pos_embed", "reg_token", "patch_embed.proj.weight", "patch_embed.proj.bias")
SMALL = 0.01


def _uniform(shape: Shape, rng: np.random.Generator) -> np.ndarray:
    """Of mean 0 and variance 1. Uniform numbers are the ones that numpy draws alike in all its versions."""
    return (rng.random(shape) - 0.5) * math.sqrt(12)


def _is_added(name: str) -> bool:
    parts = (".attn.proj.weight", ".attn.proj.bias", ".mlp.fc2.weight", ".mlp.fc2.bias")
    return name in ADDED or name.endswith(parts)


def weights(shapes: Mapping[str, Shape], seed: int = 0) -> dict[str, torch.Tensor]:
    """One generator, tensors in the order of their names; no norm has scale 1 and shift 0, no two heads are alike."""
    rng = np.random.default_rng(seed)
    made = {}
    for name in sorted(shapes):
        shape = shapes[name]
        values = _uniform(shape, rng)
        if name.endswith(("norm.weight", "norm1.weight", "norm2.weight")):
            values = 1 + 0.3 * values
        elif name.endswith("gamma"):
            values = 0.5 + 0.3 * values
        elif name.endswith("bias"):
            values = 0.3 * values
        elif name.endswith("weight"):  # queries and keys a little larger, that attention is not the same everywhere
            values = values / math.sqrt(math.prod(shape[1:])) * (1.5 if ".qkv." in name else 1)
        made[name] = torch.from_numpy((values * (SMALL if _is_added(name) else 1)).astype(np.float32))
    return made


def images(height: int, width: int, seed: int = 7) -> torch.Tensor:
    """Two of them."""
    return torch.from_numpy(_uniform((2, 3, height, width), np.random.default_rng(seed)).astype(np.float32))


@cache
def network(arch: str) -> torch.nn.Module:
    """The family's module with the weights of `weights`."""
    with torch.device("meta"):
        module = FAMILY.build(arch)
    module.load_state_dict(weights(FAMILY.shapes(arch)), assign=True)
    return module.eval()


def outputs(arch: str, height: int, width: int) -> dict[str, torch.Tensor]:
    """What the module returns, tokens behind the last block, before (`raw`) and behind the final norm, and features."""
    module, names = network(arch), FAMILY.poolings(arch)
    with torch.no_grad():
        pixels = images(height, width)
        tokens = FAMILY.outputs(module, pixels, names)
        features = FAMILY.features(module, tokens, names)
        return {"network": module(pixels), "raw": tokens[0][-1], "tokens": tokens[1][-1]} | features


def probes(output: torch.Tensor) -> list[float]:
    """Twelve values, the first and the last among them, mean and sum of squares."""
    flat = output.double().flatten()
    values = [flat[number * (len(flat) - 1) // 11] for number in range(12)]
    return [float(value) for value in (*values, flat.mean(), flat.square().sum())]


def off(output: torch.Tensor, wanted: list[float]) -> float:
    """How far values and mean are off, in root mean squares, or the sum of squares, relatively; the larger."""
    *found, found_squares = probes(output)
    *values, squares = wanted
    scale = math.sqrt(squares / output.numel())
    return max(
        *(abs(ours - theirs) / scale for ours, theirs in zip(found, values, strict=True)),
        abs(found_squares / squares - 1),
    )


@pytest.mark.parametrize(("case", "side"), RUNS)
def test_it_computes_what_the_original_class_computed(case, side):
    arch, wanted = CASES[case]["arch"], CASES[case]["outputs"][side]
    found = outputs(arch, *map(int, side.split("x")))
    wrong = {name: round(off(found[name], numbers), 6) for name, numbers in wanted.items()}
    assert all(share <= TOLERANCE for share in wrong.values()), wrong


@pytest.mark.parametrize("case", [case for case, facts in CASES.items() if len(facts["outputs"]) == 1])
def test_only_originals_that_refuse_other_sizes_have_one(case):
    assert case in ("moco_v3", "ijepa")


@pytest.mark.parametrize(("method", "columns_first"), [("mae", True), ("ijepa", True), ("moco_v3", False)])
def test_fixed_positions_are_the_originals(method, columns_first):
    wanted = ORIGINALS["tables"][method]
    vit = parse(wanted["arch"])
    assert vit
    assert off(sines(vit, columns_first), wanted["table"]) <= TOLERANCE
    assert off(sines(vit, not columns_first), wanted["table"]) > 1
