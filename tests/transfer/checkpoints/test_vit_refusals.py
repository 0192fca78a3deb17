"""Vision transformers that cannot be read, and what people type at them: one message each, which says what to do."""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Callable
from pathlib import Path

import checkpoint_files as files
import pytest
import torch
from checkpoint_files import State, Tree, filled, in_memory, linear, under, without_fc
from classification_runs import write_images
from releases.vit_toolkits import VIT, transformers

from transfer.__main__ import main
from transfer.checkpoints.backbone import random_backbone
from transfer.checkpoints.container import Contents
from transfer.checkpoints.families.vit import Vit, sines
from transfer.checkpoints.lints import told_by_name
from transfer.checkpoints.read import backbone_from, read_backbone
from transfer.checkpoints.write import convert
from transfer.runtime.errors import CheckpointError

ARCH, WIDE, BLOCKS = "vit_384x2_patch16_224", 384, range(2)
WHOLE = without_fc(files.cheap_state(ARCH))


def without(state: State, *starts: str) -> State:
    return {name: tensor for name, tensor in state.items() if not name.startswith(starts)}


def in_blocks(**tensors: tuple[int, ...]) -> State:
    """The same tensors in every block; `__` is a dot."""
    return {
        f"blocks.{block}.{name.replace('__', '.')}": filled(*shape)
        for block in BLOCKS
        for name, shape in tensors.items()
    }


def dinov3(state: State) -> Tree:
    """facebookresearch/dinov3: dinov3/models/vision_transformer.py."""
    tokens = {"storage_tokens": filled(1, 4, WIDE), "mask_token": filled(1, WIDE), "rope_embed.periods": filled(16)}
    norms = {f"local_cls_norm.{kind}": filled(WIDE) for kind in ("weight", "bias")}
    return without(state, "pos_embed") | tokens | norms | in_blocks(ls1__gamma=(WIDE,), ls2__gamma=(WIDE,))


def distilled(state: State) -> Tree:
    """facebookresearch/deit: models.py."""
    tokens = {"dist_token": filled(1, 1, WIDE), "pos_embed": filled(1, 198, WIDE)}
    return state | tokens | linear("head.", WIDE, 1000) | linear("head_dist.", WIDE, 1000)


def convolutions(state: State) -> Tree:
    """facebookresearch/moco-v3: vits.py, ConvStem."""
    stem = {f"patch_embed.proj.{place}.weight": filled(48, 48, 3, 3) for place in (0, 3, 6, 9)}
    return without(state, "patch_embed.") | stem | {"patch_embed.proj.12.weight": filled(WIDE, 384, 1, 1)}


def xcit(state: State) -> Tree:
    """facebookresearch/xcit: xcit.py."""
    kept = without(state, "pos_embed", "patch_embed.") | {"patch_embed.proj.0.0.weight": filled(48, 3, 3, 3)}
    kept |= linear("pos_embeder.token_projection.", 64, WIDE) | in_blocks(attn__temperature=(8, 1, 1))
    return kept | {"cls_attn_blocks.0.norm1.weight": filled(WIDE)}


def apart(state: State, *parts: str) -> Tree:
    kept = without(state, *(f"blocks.{block}.attn.qkv" for block in BLOCKS))
    return kept | {
        f"blocks.{block}.attn.{part}.{kind}": filled(*shape)
        for block in BLOCKS
        for part in parts
        for kind, shape in (("weight", (WIDE, WIDE)), ("bias", (WIDE,)))
    }


def three_parts(but: str = "", **changed: torch.Tensor) -> Tree:
    """transformers' names, without those that hold `but`."""
    saved = transformers(files.cheap_state(ARCH), VIT)
    named = {name.replace("__", "."): tensor for name, tensor in changed.items()}
    return {name: tensor for name, tensor in (saved | named).items() if not but or but not in name}


QUERY = "encoder.layer.1.attention.attention.query.weight"
REFUSED: dict[str, tuple[Callable[[], Tree], tuple[str, ...]]] = {
    "patches that are not square": (
        lambda: WHOLE | {"patch_embed.proj.weight": filled(WIDE, 3, 16, 8)},
        ("square patches", "(384, 3, 16, 8)", "as high as wide"),
    ),
    "patches of grey images": (
        lambda: WHOLE | {"patch_embed.proj.weight": filled(WIDE, 1, 16, 16)},
        ("images of 1 channel", "RGB"),
    ),
    "patches of videos": (
        lambda: WHOLE | {"patch_embed.proj.weight": filled(WIDE, 3, 2, 16, 16)},
        ("several frames", "take a network of images"),
    ),
    "no patches": (lambda: without(WHOLE, "patch_embed."), ("no patch_embed.proj.weight", "download or copy")),
    "no positions": (lambda: without(WHOLE, "pos_embed"), ("without positions", "no pos_embed")),
    "positions of no grid": (
        lambda: WHOLE | {"pos_embed": filled(1, 200, WIDE)},
        ("fits no square grid", "(1, 200, 384)", "199 is no square number"),
    ),
    "positions of an oblong": (
        lambda: WHOLE | {"pos_embed": filled(1, 99, WIDE)},
        ("98 is no square number", "images that are not square are not supported"),
    ),
    "no position for the CLS token": (
        lambda: WHOLE | {"pos_embed": filled(1, 196, WIDE)},
        ("a CLS token and no position for it", "196 is 14²", "torch.cat([torch.zeros_like(state['cls_token'])"),
    ),
    "a position for no CLS token": (
        lambda: without(WHOLE, "cls_token"),
        ("a position for a CLS token and no CLS token", "197 is 14² + 1", "pos_embed[:, 1:]"),
    ),
    "positions for registers": (
        lambda: WHOLE | {"pos_embed": filled(1, 201, WIDE), "reg_token": filled(1, 4, WIDE)},
        ("positions for its registers", "201 is 14² + 5"),
    ),
    "DINOv3, teacher": (
        lambda: {"teacher": under("backbone.", dinov3(WHOLE)) | linear("dino_head.mlp.0.", WIDE, 2048)},
        ("a ViT of DINOv3", "another layout", "save the network alone"),
    ),
    "DeiT, distilled": (
        lambda: {"model": distilled(WHOLE)},
        ("a distilled DeiT", "dist_token, head_dist.weight", "without distillation"),
    ),
    "DeiT, distilled, transformers": (
        lambda: three_parts(embeddings__distillation_token=filled(1, 1, WIDE)),
        ("a distilled DeiT", "without distillation"),
    ),
    "MoCo v3's vit_conv": (
        lambda: {
            "arch": "vit_conv_small",
            "state_dict": under("module.base_encoder.", convolutions(WHOLE))
            | under("module.momentum_encoder.", convolutions(WHOLE)),
        },
        ("several convolutions (MoCo v3's vit_conv", "patch_embed.proj.0.weight", "vit_small or vit_base"),
    ),
    "XCiT": (lambda: xcit(WHOLE), ("an XCiT", "pos_embeder", "take DINO's ViT-S or ViT-B")),
    "XCiT of DINO": (
        lambda: {"teacher": under("backbone.", xcit(WHOLE)), "student": under("module.backbone.", xcit(WHOLE))},
        ("an XCiT", "attention is over channels"),
    ),
    "queries, keys and values apart": (
        lambda: apart(WHOLE, "q", "k", "v"),
        ("keeps queries, keys and values apart", "12 such tensors", "torch.cat([q, k, v])"),
    ),
    "queries and values alone": (
        lambda: apart(WHOLE, "q_proj", "v_proj"),
        ("apart", "blocks.0.attn.q_proj.weight", "8 such tensors"),
    ),
    "one value missing": (
        lambda: three_parts(but="layer.1.attention.attention.value.weight"),
        ("blocks.1.attn.qkv.weight in 3 parts, and 1 of them is not in the file", QUERY, "(384, 384)"),
    ),
    "all keys missing": (
        lambda: three_parts(but="attention.key."),
        ("blocks.0.attn.qkv.weight in 3 parts, and 1 of them is not in the file", "download or copy it again"),
    ),
    "queries of another shape": (
        lambda: three_parts(**{QUERY.replace(".", "__"): filled(100, WIDE)}),
        ("parts that do not fit each other", f"{QUERY} (100, 384)"),
    ),
    "normalised queries": (
        lambda: WHOLE | in_blocks(attn__q_norm__weight=(64,), attn__k_norm__weight=(64,)),
        ("normalises queries and keys", "blocks.0.attn.q_norm.weight"),
    ),
    "a norm before the blocks": (
        lambda: WHOLE | {"norm_pre.weight": filled(WIDE)},
        ("a norm in front of its first block", "CLIP"),
    ),
    "CLIP, transformers": (
        lambda: {"vision_model.encoder.layers.0.layer_norm1.weight": filled(768)},
        ("a CLIP model", "not supported"),
    ),
    "CLIP, a ResNet": (lambda: {"visual.attnpool.positional_embedding": filled(50, 2048)}, ("a CLIP model",)),
    "norms of tokens and of their average": (
        lambda: {
            "state_dict": {
                "backbone.layers.0.ln1.weight": filled(WIDE),
                "backbone.ln1.weight": filled(WIDE),
                "backbone.ln2.weight": filled(WIDE),
            }
        },
        ("once more", "ln1 and ln2", "out_type='cls_token'"),
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_read_says_why_and_what_to_do(case):
    build, words = REFUSED[case]
    with pytest.raises(CheckpointError) as caught:
        in_memory(build())
    error = caught.value
    for word in ("file.pth", *words):
        assert word in str(error), str(error)
    assert error.todo
    assert str(error).count("to do:") == 1


def pickled_as(monkeypatch: pytest.MonkeyPatch, module: str, short: str) -> object:
    """An object that pickles under a name of this module of torch's."""
    kind = type(short, (), {"__module__": module, "__qualname__": short})
    monkeypatch.setattr(importlib.import_module(module), short, kind)
    return kind()


@pytest.mark.parametrize("module", ["torch.distributed._shard.sharded_tensor.api"])
def test_a_shard_of_several_processes_is_named(monkeypatch, tmp_path, module):
    shard = pickled_as(monkeypatch, module, "ShardedTensor")
    torch.save({"model": {"student.backbone.blocks.0.norm1.weight": shard}}, tmp_path / "model_0001.rank_0.pth")
    files.refused(
        tmp_path / "model_0001.rank_0.pth", "one process's share", "refused and not run", "teacher_checkpoint.pth"
    )


def test_a_model_that_lightly_train_pickled_is_named(tmp_path):
    class Model:
        pass

    Model.__module__, Model.__qualname__ = "lightly_train._models.embedding_model", "EmbeddingModel"
    module = types.ModuleType(Model.__module__)
    module.EmbeddingModel = Model  # type: ignore[attr-defined]
    names = ("lightly_train", "lightly_train._models", Model.__module__)
    with pytest.MonkeyPatch.context() as patch:
        for name in names:
            patch.setitem(sys.modules, name, module)
        torch.save({"lightly_train": Model()}, tmp_path / "last.ckpt")
    files.refused(tmp_path / "last.ckpt", "lightly-train", "lightly_train.export(", "torch_state_dict")


def test_another_format_that_is_forced_says_what_it_looked_for(tmp_path):
    path = files.write({"state_dict": under("module.encoder_q.", WHOLE)}, tmp_path / "moco.pth", "zip")
    text = files.refused(path, "has no tensors where the format dino keeps them", "leave out --format", format="dino")
    assert "Traceback" not in text


def codes(state: State, name: str, **options: str) -> dict[str, str]:
    backbone = backbone_from(Contents(state, "memory", 0, "0" * 64), Path(name), **options)
    return {lint.code: lint.text for lint in backbone.lints}


@pytest.mark.parametrize("wrapper", ["", "model", "state_dict"])
def test_moco_v3s_small_vit_in_a_plain_file_is_told_by_its_positions_and_read_by_its_format(wrapper):
    table = torch.cat([torch.zeros(1, WIDE), sines(Vit(WIDE, 1, 6, 1536, 16, 224), False).float()])[None]
    state = WHOLE | {"pos_embed": table}
    tree = {wrapper: state} if wrapper else state
    assert "12 heads" in codes(tree, "checkpoint.pth")["heads"]
    forced = in_memory(tree, format="moco_v3")
    assert forced.arch == f"{ARCH}.h12"
    assert "heads" not in {lint.code for lint in forced.lints}


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("vit_base_patch16_224.augreg_in21k.safetensors", "std .5"),
        ("beit_like_vit_small.pth", "std .5"),
        ("msn_vit_small.pth", "target encoder"),
        ("vit_huge_patch14_gap_224.in1k_ijepa.safetensors", "target encoder"),
        ("ibot_vits_16_pt22k.pth", "the student"),
        ("mae_finetuned_vit_base.pth", "trained with labels"),
        ("vit_small_mae_ft.pth", "trained with labels"),
        ("mae_pretrain_vit_small.pth", ""),
        ("dino_deitsmall16_pretrain.pth", ""),
        ("ibot_vits_16.pth", ""),
        ("checkpoint.pth", ""),
    ],
)
@pytest.mark.parametrize("wrapper", ["", "model"])
def test_what_the_name_of_a_plain_file_says(name, told, wrapper):
    said = codes({wrapper: WHOLE} if wrapper else WHOLE, name)
    assert ("file-name" in said) == bool(told)
    assert told in said.get("file-name", "")


@pytest.mark.parametrize(
    ("arch", "told"),
    [
        ("vit_small_patch16_224", True),
        ("vit_small_patch16_224.antialias", True),
        ("vit_small_patch16_224.h12.antialias", False),
        ("vit_base_patch16_224", False),
        ("resnet50", False),
    ],
)
def test_a_name_says_moco_of_small_vits_with_six_heads_alone(arch, told):
    said = [lint.text for lint in told_by_name("moco_vit_300ep.pth", arch)]
    assert ["--format moco_v3" in text for text in said] == [True] * told
    assert bool(list(told_by_name("vit_augreg.pth", arch))) == arch.startswith("vit")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images"))


SIDE = ["--view.resize", "32", "--view.crop", "32"]


@pytest.mark.parametrize(
    ("checkpoint", "options", "words"),
    [
        ("vit_64x2_patch16_32", ["--view.crop", "130"], ("130 × 130 pixels", "patches of 16", "crop of 128 or 144")),
        ("resnet18", [*SIDE, "--pooling", "cls"], ("unknown pooling 'cls'", "avg, max, grid")),
        ("resnet18", [*SIDE, "--pooling", "grid"], ("a map of 1 × 1", "use a crop of 224, or the pooling avg")),
        ("vit_64x2_patch16_32", [*SIDE, "--pooling", "grid"], ("unknown pooling 'grid'", "cls, patches, cls+patches")),
        ("vit_64x2_patch16_32", [*SIDE, "--pooling", "cls4"], ("unknown pooling 'cls4'", "choose one of cls")),
        ("vit_64x2_patch16_32.nocls", [*SIDE, "--pooling", "cls"], ("unknown pooling", "one of patches, patches-raw")),
        ("vit_64x2_patch16_32.nonorm", [*SIDE, "--pooling", "cls"], ("unknown pooling", "cls-raw")),
    ],
)
def test_a_run_that_cannot_be_says_what_can(images, tmp_path, capsys, checkpoint, options, words):
    line = ["run", "transfer.knn", f"random:{checkpoint}", "--image-folder", str(images), "--ks", "20", *options]
    assert main([*line, "--device", "cpu", "--runs", str(tmp_path)]) != 0
    said = capsys.readouterr()
    text = said.out + said.err
    for word in words:
        assert word in text, text
    assert "Traceback" not in text


@pytest.mark.parametrize(
    "arch", [f"vit_64x2_patch16_32{kind}" for kind in (".fcnorm", ".swiglu", ".reg4", ".nocls.ls")]
)
def test_what_transformers_has_not_is_not_written_for_it(tmp_path, arch):
    torch.save({"state_dict": {**random_backbone(arch, 0).state}}, tmp_path / "plain.pth")
    with pytest.raises(CheckpointError, match="transformers has no such ViT"):
        convert(tmp_path / "plain.pth", "huggingface", tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


def test_nothing_of_a_refused_file_is_written(tmp_path, capsys):
    path = files.write({"teacher": under("backbone.", dinov3(WHOLE))}, tmp_path / "dinov3.pth", "zip")
    with pytest.raises(CheckpointError):
        read_backbone(path)
    out = tmp_path / "out.pth"
    assert main(["convert", str(path), "--to", "timm", "-o", str(out)]) != 0
    assert "DINOv3" in capsys.readouterr().err
    assert not out.exists()
