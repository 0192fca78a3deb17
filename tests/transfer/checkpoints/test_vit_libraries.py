"""Vision transformers in the files that libraries' own classes write, against what these classes compute.

Weights are seeded and random, of small networks; each file is written as its library writes it. transformers is not
among this project's packages: its test runs where it is installed.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import checkpoint_files as files
import pytest
import timm
import torch
from releases.vit_toolkits import DINOV2, VIT
from releases.vit_toolkits import transformers as transformers_names
from timm.models.vision_transformer import VisionTransformer
from torch.nn import functional as F
from torchvision.models.vision_transformer import VisionTransformer as TorchvisionVit
from torchvision.models.vision_transformer import interpolate_embeddings

from transfer.checkpoints.backbone import Backbone
from transfer.checkpoints.families import family_of
from transfer.checkpoints.families.vit import Vit, sines
from transfer.checkpoints.read import read_backbone
from transfer.checkpoints.write import convert

TOLERANCE = 1e-5
SIDE, PATCH, WIDE = 64, 8, 64
DYNAMIC = {"dynamic_img_size": True, "weight_init": "skip"}
# timm draws its first weights slowly; all of them are drawn anew here
SMALL = {
    "weight_init": "skip",
    "img_size": SIDE,
    "patch_size": PATCH,
    "embed_dim": WIDE,
    "depth": 2,
    "num_heads": 1,
    "num_classes": 0,
}


def filled(network: Any, *fixed: str) -> Any:
    """With random weights by which every tensor's place shows; those called `fixed` as they are."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, tensor in network.named_parameters():
            drawn = torch.randn(tensor.shape, generator=generator)
            if name in fixed:
                continue
            if tensor.ndim == 2:
                tensor.copy_(drawn / tensor.shape[1] ** 0.5)
            elif tensor.ndim == 1 and name.endswith(("weight", "gamma", "lambda1")):
                tensor.copy_(1 + 0.3 * drawn)
            else:
                tensor.copy_(0.1 * drawn)
    network.eval()
    return network


def images(height: int, width: int) -> torch.Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(7))


def demand_equal(backbone: Backbone, own: Callable[[torch.Tensor], torch.Tensor], *sides: tuple[int, int]) -> None:
    """Of tokens behind the final norm, at each of these sizes."""
    family, network = family_of(backbone.arch), backbone.network()
    for side in sides:
        pixels = images(*side)
        with torch.no_grad():
            found = family.outputs(network, pixels, family.poolings(backbone.arch)[:1])[1][-1]
            assert torch.allclose(found, own(pixels), rtol=0, atol=TOLERANCE), side


@pytest.mark.parametrize(
    ("more", "arch"),
    [
        ({}, "vit_64x2_patch8_64.antialias"),
        ({"init_values": 1e-5}, "vit_64x2_patch8_64.ls.antialias"),
        ({"qkv_bias": False}, "vit_64x2_patch8_64.nobias.antialias"),
        ({"class_token": False, "global_pool": "avg", "fc_norm": False}, "vit_64x2_patch8_64.nocls.antialias"),
        ({"init_values": 1e-5, "reg_tokens": 4, "no_embed_class": True}, "vit_64x2_patch8_64.reg4.ls.antialias"),
    ],
)
def test_timms(tmp_path, more, arch):
    own = filled(VisionTransformer(**SMALL, dynamic_img_size=True, **more))
    torch.save(own.state_dict(), tmp_path / "timm.pth")
    backbone = read_backbone(tmp_path / "timm.pth")
    assert backbone.arch == arch
    assert any("CLS token's position" in note for note in backbone.notes) == ("reg_tokens" in more)
    demand_equal(backbone, own.forward_features, (64, 64), (96, 80), (32, 48))


@pytest.mark.parametrize("wrapper", ["", "model"])
def test_torchvisions(tmp_path, wrapper):
    options = {"patch_size": 8, "num_layers": 2, "num_heads": 1, "hidden_dim": 64, "mlp_dim": 256, "num_classes": 10}
    saved = filled(TorchvisionVit(image_size=SIDE, **options)).state_dict()
    torch.save({wrapper: saved, "epoch": 3} if wrapper else saved, tmp_path / "torchvision.pth")

    def own(pixels: torch.Tensor) -> torch.Tensor:
        side = pixels.shape[-1]
        network = TorchvisionVit(image_size=side, **options).eval()
        network.load_state_dict(interpolate_embeddings(side, PATCH, dict(saved)) if side != SIDE else saved)
        patches = network._process_input(pixels)
        return network.encoder(torch.cat([network.class_token.expand(len(pixels), -1, -1), patches], 1))

    backbone = read_backbone(tmp_path / "torchvision.pth")
    assert (backbone.source.format, backbone.arch) == ("torchvision_vit", "vit_64x2_patch8_64.corners")
    demand_equal(backbone, own, (64, 64), (96, 96), (32, 32))


def in_mmpretrains_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    names = {"norm1": "ln1", "norm2": "ln2", "mlp.fc1": "ffn.layers.0.0", "mlp.fc2": "ffn.layers.1"}
    renamed = {}
    for name, tensor in state.items():
        name = name.replace("blocks.", "layers.").replace("patch_embed.proj.", "patch_embed.projection.")
        for ours, theirs in names.items():
            name = name.replace(f".{ours}.", f".{theirs}.")
        renamed[name.replace("fc_norm.", "ln2.") if name.startswith("fc_norm.") else name] = tensor
    return {f"ln1.{name[5:]}" if name.startswith("norm.") else name: tensor for name, tensor in renamed.items()}


@pytest.mark.parametrize("prefix", ["backbone.", ""])
def test_mmpretrains_as_mmengine_saves_them(tmp_path, prefix):
    """Its own classes are not among this project's packages: timm's computes the same, with positions put in place."""
    from mmengine.runner.checkpoint import save_checkpoint

    own = filled(VisionTransformer(**SMALL))
    named = {prefix + name: tensor for name, tensor in in_mmpretrains_names(own.state_dict()).items()}
    save_checkpoint({"meta": {"mmpretrain_version": "1.2.0"}, "state_dict": named}, str(tmp_path / "epoch_1.pth"))
    backbone = read_backbone(tmp_path / "epoch_1.pth")
    assert (backbone.source.format, backbone.arch) == ("mmselfsup", "vit_64x2_patch8_64")

    def at_another_size(pixels: torch.Tensor) -> torch.Tensor:
        larger = VisionTransformer(**SMALL | {"img_size": pixels.shape[-1]}).eval()
        table = own.pos_embed[:, 1:].reshape(1, 8, 8, WIDE).permute(0, 3, 1, 2)
        grid = pixels.shape[-1] // PATCH
        resized = F.interpolate(table, (grid, grid), mode="bicubic").permute(0, 2, 3, 1).flatten(1, 2)
        larger.load_state_dict(own.state_dict() | {"pos_embed": torch.cat([own.pos_embed[:, :1], resized], 1)})
        return larger.forward_features(pixels)

    demand_equal(backbone, own.forward_features, (64, 64))
    demand_equal(backbone, at_another_size, (96, 96))


def test_mmpretrains_norm_behind_the_average_of_patches(tmp_path):
    own = filled(VisionTransformer(**SMALL, global_pool="avg", fc_norm=True))
    named = {f"backbone.{name}": tensor for name, tensor in in_mmpretrains_names(own.state_dict()).items()}
    torch.save({"meta": {"mmpretrain_version": "1.2.0"}, "state_dict": named}, tmp_path / "epoch_1.pth")
    backbone = read_backbone(tmp_path / "epoch_1.pth")
    assert backbone.arch == "vit_64x2_patch8_64.fcnorm"
    family, pixels = family_of(backbone.arch), images(64, 64)
    with torch.no_grad():
        found = family.features(
            backbone.network(), family.outputs(backbone.network(), pixels, ["patches"]), ["patches"]
        )
        assert torch.allclose(found["patches"], own(pixels), rtol=0, atol=TOLERANCE)


def with_sines(network: VisionTransformer, columns_first: bool) -> VisionTransformer:
    vit = Vit(network.embed_dim, 1, 1, 1, PATCH, SIDE)
    table = sines(vit, columns_first).float()[None]
    network.pos_embed.data = torch.cat([torch.zeros(1, 1, network.embed_dim), table], 1)
    return filled(network, "pos_embed")


@pytest.mark.parametrize(
    ("wide", "method", "heads"),
    [
        (192, "MoCo v3", 12),
        pytest.param(384, "MoCo v3", 12, marks=pytest.mark.slow),
        (192, "MAE", 12),
        pytest.param(192, "", 3, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("linear", [False, True])
def test_solo_learns_with_the_heads_of_their_method(tmp_path, wide, method, heads, linear):
    options = SMALL | {"embed_dim": wide, "num_heads": heads}
    own = VisionTransformer(**options, dynamic_img_size=True)
    own = with_sines(own, columns_first=method == "MAE") if method else filled(own)
    saved = {f"backbone.{name}": tensor for name, tensor in own.state_dict().items()}
    saved |= {"classifier.weight": torch.zeros(10, wide), "classifier.bias": torch.zeros(10)}
    head = "decoder.decoder_embed." if method == "MAE" else "projector.0."
    saved |= {} if linear else {f"{head}weight": torch.zeros(8, wide), f"{head}bias": torch.zeros(8)}
    torch.save({"epoch": 3, "pytorch-lightning_version": "2.0", "state_dict": saved}, tmp_path / "last.ckpt")
    backbone = read_backbone(tmp_path / "last.ckpt")
    assert backbone.source.format == "solo_learn"
    assert "heads" not in {lint.code for lint in backbone.lints}
    demand_equal(backbone, own.forward_features, (64, 64), (96, 80))


@pytest.mark.parametrize(
    ("wide", "depth", "hidden", "heads", "moco"),
    [(384, 2, 1536, 12, True), pytest.param(768, 8, 2304, 8, False, marks=pytest.mark.slow)],
)
def test_mmpretrains_with_other_heads_than_is_usual(tmp_path, wide, depth, hidden, heads, moco):
    own = VisionTransformer(
        **SMALL | {"embed_dim": wide, "depth": depth, "num_heads": heads, "mlp_ratio": hidden / wide}
    )
    own = with_sines(own, columns_first=False) if moco else filled(own)
    named = {f"backbone.{name}": tensor for name, tensor in in_mmpretrains_names(own.state_dict()).items()}
    torch.save({"meta": {"mmpretrain_version": "1.2.0"}, "state_dict": named}, tmp_path / "epoch_1.pth")
    demand_equal(read_backbone(tmp_path / "epoch_1.pth"), own.forward_features, (64, 64))


def test_lightlys_with_torchvisions_vit(tmp_path):
    options = {"patch_size": 8, "num_layers": 2, "num_heads": 1, "hidden_dim": 64, "mlp_dim": 256, "num_classes": 10}
    own = filled(TorchvisionVit(image_size=SIDE, **options))
    saved = {f"backbone.vit.{name}": tensor for name, tensor in own.state_dict().items()}
    saved |= {"backbone.mask_token": torch.zeros(1, 1, 64), "decoder.decoder_embed.weight": torch.zeros(8, 64)}
    torch.save({"state_dict": saved}, tmp_path / "last.ckpt")
    backbone = read_backbone(tmp_path / "last.ckpt")
    assert (backbone.source.format, backbone.arch) == ("lightly", "vit_64x2_patch8_64.antialias")

    def encoded(pixels: torch.Tensor) -> torch.Tensor:
        return own.encoder(torch.cat([own.class_token.expand(len(pixels), -1, -1), own._process_input(pixels)], 1))

    demand_equal(backbone, encoded, (64, 64))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("vit_tiny_patch16_224", {"img_size": 64}),
        pytest.param("vit_small_patch14_dinov2", {"img_size": 56}, marks=pytest.mark.slow),
        ("vit_small_patch14_reg4_dinov2", {"img_size": 56}),
    ],
)
def test_what_is_written_for_timm_is_what_its_models_load(tmp_path, name, options):
    own = filled(timm.create_model(name, num_classes=0, depth=2, **DYNAMIC, **options))
    torch.save(own.state_dict(), tmp_path / "own.pth")
    convert(tmp_path / "own.pth", "timm", tmp_path / "out.pth")
    before, after = read_backbone(tmp_path / "own.pth"), read_backbone(tmp_path / "out.pth")
    assert before.arch == after.arch
    assert all(torch.equal(tensor, after.state[key]) for key, tensor in before.state.items())
    fresh = timm.create_model(name, num_classes=0, depth=2, **DYNAMIC, **options).eval()
    fresh.load_state_dict(torch.load(tmp_path / "out.pth", weights_only=True), strict=True)
    side = options["img_size"]
    demand_equal(after, fresh.forward_features, (side, side), (2 * side, side))


CONFIG = {
    "hidden_size": WIDE, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 256,
    "image_size": SIDE, "patch_size": PATCH,
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("ViT", {}),
        ("ViT", {"layer_norm_eps": 1e-6, "qkv_bias": False}),
        ("ViTMAE", {"mask_ratio": 0.0}),
        ("ViTMSN", {}),
        ("Dinov2", {}),
        ("Dinov2", {"use_swiglu_ffn": True}),
        ("Dinov2WithRegisters", {}),
        ("IJepa", {}),
    ],
)
@pytest.mark.parametrize("names", ["saved", "modules"])
def test_transformers(tmp_path, kind, more, names):
    """`save_pretrained` writes the names of version 4, a saved state dict has those of the version's own modules."""
    transformers = pytest.importorskip("transformers")
    config = getattr(transformers, f"{kind}Config")(**CONFIG | more, attn_implementation="eager")
    own = filled(getattr(transformers, f"{kind}Model")(config))
    own.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    if names == "modules":
        path = tmp_path / "state.pth"
        torch.save(own.state_dict(), path)
    backbone = read_backbone(path)
    assert backbone.source.format == "huggingface"

    def forward(pixels: torch.Tensor) -> torch.Tensor:
        options = {} if kind.startswith("Dinov2") else {"interpolate_pos_encoding": True}
        if kind == "ViTMAE":  # what is masked is none, and this order leaves patches where they are
            patches = pixels[0, 0].numel() // PATCH**2
            options["noise"] = torch.arange(float(patches)).expand(len(pixels), -1)
        return own(pixels, **options).last_hidden_state

    demand_equal(backbone, forward, (64, 64), (96, 80))
    out = tmp_path / "back" / "model.safetensors"
    out.parent.mkdir()
    convert(path, "huggingface", out)
    config.save_pretrained(out.parent)
    pooler = {"add_pooling_layer": False} if kind == "ViT" else {}
    fresh, told = type(own).from_pretrained(out.parent, output_loading_info=True, attn_implementation="eager", **pooler)
    assert not any(told.values()), told
    own = fresh.eval()
    demand_equal(backbone, forward, (64, 64), (96, 80))


VERSION_5 = {
    "attention.attention.query": "attention.q_proj",
    "attention.attention.key": "attention.k_proj",
    "attention.attention.value": "attention.v_proj",
    "attention.output.dense": "attention.o_proj",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
}


@pytest.mark.parametrize(
    ("arch", "block"),
    [
        ("vit_64x2_patch8_64.eps1e-12", VIT),
        ("vit_64x2_patch8_64.ls", DINOV2),
        ("vit_64x2_patch8_64.swiglu.reg4.ls.antialias", DINOV2),
    ],
)
def test_the_names_of_transformers_5_are_read(arch, block):
    state = files.real_state(arch)
    saved = {}
    for name, tensor in transformers_names(state, block).items():
        for old, new in VERSION_5.items():
            name = name.replace(f".{old}.", f".{new}.")
        if block is VIT:
            name = name.replace("encoder.layer.", "layers.")
        if "swiglu" in arch and ".mlp.fc1." in name:
            saved[name.replace("fc1", "gate_proj")], saved[name.replace("fc1", "up_proj")] = tensor.chunk(2)
        else:
            saved[name.replace("mlp.fc2", "mlp.down_proj") if "swiglu" in arch else name] = tensor
    backbone = files.in_memory(saved)
    assert (backbone.source.format, backbone.arch) == ("huggingface", arch)
    assert all(torch.equal(tensor, state[name]) for name, tensor in backbone.state.items())


def huggingface_file(folder: Path, config: object) -> Backbone:
    """Of four heads, with this config.json beside it."""
    own = filled(VisionTransformer(**SMALL | {"num_heads": 4}))
    torch.save(own.state_dict(), folder / "own.pth")
    convert(folder / "own.pth", "huggingface", folder / "carrying.safetensors")
    from safetensors.torch import load_file, save_file

    save_file(load_file(folder / "carrying.safetensors"), folder / "model.safetensors")
    if config is not None:
        text = config if isinstance(config, str) else json.dumps(config)
        (folder / "config.json").write_text(text, encoding="utf-8")
    return read_backbone(folder / "model.safetensors")


def test_config_json_says_what_no_tensor_does(tmp_path):
    backbone = huggingface_file(tmp_path, CONFIG | {"layer_norm_eps": 1e-6})
    assert backbone.arch == "vit_64x2_patch8_64.h4"
    assert backbone.source.branch == "only with eps 1e-06, 4 heads"
    assert "eps" not in {lint.code for lint in backbone.lints}


def test_a_config_json_that_says_the_usual_changes_no_branch(tmp_path):
    backbone = huggingface_file(tmp_path, CONFIG | {"layer_norm_eps": 1e-12, "num_attention_heads": 1})
    assert (backbone.arch, backbone.source.branch) == ("vit_64x2_patch8_64.eps1e-12", "only")


@pytest.mark.parametrize(
    "config",
    [
        None,
        "{",
        "[]",
        "[" * 100_000,
        CONFIG,
        CONFIG | {"layer_norm_eps": 1e-6, "hidden_size": 128},
        CONFIG | {"layer_norm_eps": "1e-6"},
        CONFIG | {"layer_norm_eps": 1e-6, "num_attention_heads": 0},
    ],
)
def test_without_a_config_json_of_this_network_the_usual_is_assumed_and_said(tmp_path, config):
    backbone = huggingface_file(tmp_path, config)
    assert (backbone.arch, backbone.source.branch) == ("vit_64x2_patch8_64.eps1e-12", "only")
    assert "eps" in {lint.code for lint in backbone.lints}
