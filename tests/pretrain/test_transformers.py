"""Vision transformers as encoders: timm's network, its name in a checkpoint, and what their recipes differ in."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args

import pytest
import timm
import torch
from tiny_encoder import write_nine

from pretrain.__main__ import parse
from pretrain.machine import Machine
from pretrain.methods import dino, find_method
from pretrain.methods.msbreg import Settings, build
from pretrain.networks import architecture, build_encoder
from pretrain.optimizers import build_optimizer, set_decay
from pretrain.presets import method_names
from pretrain.recipe import TRANSFORMERS, Arch, EncoderSpec, Recipe
from pretrain.train import pretrain
from transfer.checkpoints.families import family_of
from transfer.checkpoints.read import read_backbone
from transfer.runtime.errors import UserError

SMALL = Settings(views=2, hidden=16, dimensions=8)


def test_every_transformer_can_be_typed_and_is_of_the_family() -> None:
    assert set(TRANSFORMERS) < set(get_args(Arch))
    for arch in get_args(Arch):
        name = EncoderSpec(arch, crop=64).transformer
        assert bool(name) == arch.startswith("vit_")
        assert not name or family_of(name).name == "vit"


@pytest.mark.parametrize("crop", [64, 128])
def test_the_encoder_is_timms_and_gives_the_cls_token(crop: int) -> None:
    encoder, features = build_encoder(EncoderSpec("vit_tiny", crop=crop))
    theirs = timm.create_model("vit_tiny_patch16_224", img_size=crop, num_classes=0).eval()
    theirs.load_state_dict(encoder.state_dict())
    images = torch.randn(2, 3, crop, crop, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours = encoder.eval()(images)
        torch.testing.assert_close(ours, theirs(images))
        torch.testing.assert_close(ours, theirs.forward_features(images)[:, 0])
    assert ours.shape == (2, features) == (2, 192)
    assert encoder.pos_embed.shape == (1, 1 + (crop // 16) ** 2, 192)
    assert architecture(encoder, "vit_tiny") == f"vit_tiny_patch16_{crop}"


def test_small_patches_and_dinos_rule_for_positions() -> None:
    encoder, features = build_encoder(EncoderSpec("vit_small_patch8", crop=64), positions="offset")
    assert features == 384
    assert encoder.pos_embed.shape == (1, 1 + 64, 384)
    assert architecture(encoder, "vit_small_patch8") == "vit_small_patch8_64.offset"
    assert encoder(torch.zeros(1, 3, 32, 32)).shape == (1, 384)
    method = dino.build(EncoderSpec("vit_tiny", crop=64), replace(dino.PRESETS["demo"][1], hidden=8, prototypes=4))
    assert architecture(method.online.encoder, "") == "vit_tiny_patch16_64.offset"


def test_a_resnet_is_called_what_was_asked_for() -> None:
    assert architecture(build_encoder(EncoderSpec("resnet18"))[0], "resnet18") == "resnet18"


@pytest.mark.parametrize("name", ["msbreg", "dino"])
def test_adamw_decays_weights_and_no_norm_bias_position_or_token(name: str) -> None:
    network = EncoderSpec("vit_tiny", crop=32)
    method = build(network, SMALL)
    if name == "dino":
        method = dino.build(network, replace(dino.PRESETS["demo"][1], hidden=8, dimensions=4, prototypes=4))
    optimizer = build_optimizer(Recipe(optimizer="adamw", weight_decay=0.3, batch=256), method)
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    trained = {key: p for key, p in method.online.named_parameters() if p.requires_grad}
    assert decay.keys() == {id(p) for p in trained.values()}
    for key, parameter in trained.items():
        token = key in ("encoder.pos_embed", "encoder.cls_token")
        spared = key.endswith(".bias") or "norm" in key or parameter.ndim == 1 or (token and name != "dino")
        assert decay[id(parameter)] == (0.0 if spared else 0.3), key
    set_decay(optimizer, 0.5)
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0, 0.5}


@pytest.mark.parametrize("name", method_names())
def test_a_preset_of_a_resnet_takes_adamw_for_a_transformer_and_stays_for_a_resnet(name: str) -> None:
    recipe, _ = find_method(name).PRESETS["demo"]
    assert parse(["DATA", "--method", name, "--preset", "demo"]).recipe == recipe
    assert parse(["DATA", "--method", name, "--preset", "demo", "--arch", "resnet34"]).recipe == replace(
        recipe, arch="resnet34"
    )
    found = parse(["DATA", "--method", name, "--preset", "demo", "--arch", "vit_small", "--clip", "1"]).recipe
    assert (found.arch, found.optimizer, found.clip, found.bias_lr) == ("vit_small", "adamw", 1.0, 0.0)
    assert found.peak(found.lr) == pytest.approx(5e-4)
    published = parse(["DATA", "--method", name, "--arch", "vit_small"]).recipe
    protocol = next(iter(find_method(name).PROTOCOLS.values()))[0]
    assert asdict(published) == asdict(protocol) | {"arch": "vit_small"}


@pytest.mark.parametrize("crop", [40, 100])
def test_a_size_that_the_patches_do_not_divide_is_refused_with_its_neighbours(crop: int) -> None:
    below = crop // 16 * 16
    with pytest.raises(UserError, match=f"--crop {crop} is no multiple of the patches of 16 pixels") as caught:
        replace(Recipe(), arch="vit_tiny", crop=crop).check(10_000)
    assert caught.value.todo == f"give --crop {below} or {below + 16}"
    replace(Recipe(), arch="resnet50", crop=crop).check(10_000)
    with pytest.raises(UserError) as caught:
        EncoderSpec("vit_tiny").check_side("--small-crop", 8)
    assert caught.value.todo == "give --small-crop 16"


@pytest.mark.slow
@pytest.mark.parametrize(("name", "arch"), [("msbreg", "vit_tiny_patch8"), ("dino", "vit_tiny")])
def test_a_checkpoint_is_read_and_computes_what_was_trained(name: str, arch: Any, tmp_path: Path) -> None:
    module = find_method(name)
    recipe, settings = module.PRESETS["demo"]
    settings = replace(settings, hidden=16, dimensions=8)
    recipe = replace(recipe, arch=arch, crop=64, batch=4, steps=2, warmup_steps=1, optimizer="adamw", lr=0.1)
    path = pretrain(
        write_nine(tmp_path / "images"), tmp_path / "out", name, recipe, settings, Machine(device="cpu", workers=0)
    )
    backbone = read_backbone(path)
    assert backbone.arch == {"msbreg": "vit_tiny_patch8_64", "dino": "vit_tiny_patch16_64.offset"}[name]
    state = torch.load(path, weights_only=True)
    method = module.build(recipe.network(), settings)
    branch = method.branches[method.evaluated]
    branch.load_state_dict(state[method.evaluated])
    network, family = backbone.network().eval(), family_of(backbone.arch)
    for side in (64, 32):  # 32: the table is resized, by the rule that training used
        images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(side))
        with torch.no_grad():
            expected = branch.encoder.eval()(images)
            found = family.features(network, family.outputs(network, images, ["cls"]), ["cls"])["cls"]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_heads_of_a_transformer_are_as_wide_as_its_token() -> None:
    with torch.device("meta"):
        online = build(EncoderSpec("vit_small", crop=64), Settings()).online
    assert online.projector[0].weight.shape == (4096, 384)
