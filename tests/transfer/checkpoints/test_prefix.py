"""A ResNet behind any prefix: read alone, or chosen by --prefix with everything beside it listed."""

from __future__ import annotations

import checkpoint_files as files
import pytest
import torch
from checkpoint_files import in_memory
from releases import all_releases, moco
from releases.timm import model_ema

from transfer.__main__ import main
from transfer.checkpoints.wrappers import without_wrappers
from transfer.checkpoints.write import convert
from transfer.runtime.errors import CheckpointError

CHEAP = files.cheap_state("resnet18")
BACKBONE = files.without_fc(CHEAP)
OTHER = files.slow_copy(BACKBONE)


def holds(backbone, state) -> bool:
    return backbone.state.keys() == state.keys() and all(torch.equal(backbone.state[k], v) for k, v in state.items())


@pytest.mark.parametrize(
    "prefix",
    ["model.", "net.", "resnet.", "module.module.", "encoder.model.", "a.b.c.", "model.trunk.0.", "ddp.module."],
)
def test_any_prefix(prefix):
    backbone = in_memory({"state_dict": files.under(prefix, BACKBONE), "epoch": 2})
    assert holds(backbone, BACKBONE)
    assert (backbone.source.format, backbone.source.branch) == ("prefix", prefix)
    assert any(prefix in note for note in backbone.notes)


@pytest.mark.parametrize(
    "prefix",
    ["backbone._orig_mod.", "_orig_mod.backbone.", "_fsdp_wrapped_module.", "_fsdp_wrapped_module.module."],
)
def test_wrappers_leave_what_they_wrapped(prefix):
    backbone = in_memory({"state_dict": files.under(prefix, BACKBONE)})
    assert holds(backbone, BACKBONE)
    assert any("wrappers" in note for note in backbone.notes)


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("layer1._orig_mod.0.bn1.bias", "layer1.0.bn1.bias"),
        ("module.layer1.0._checkpoint_wrapped_module.conv1.weight", "module.layer1.0.conv1.weight"),
        ("net.layer4.module.1.module.conv2.weight", "net.layer4.1.conv2.weight"),
        ("_fsdp_wrapped_module._orig_mod.fc.weight", "fc.weight"),
        ("model.module.conv1.weight", "model.module.conv1.weight"),
        ("encoder.module.l_to_ab.conv1.weight", "encoder.module.l_to_ab.conv1.weight"),
        ("my_orig_mod.weight", "my_orig_mod.weight"),
    ],
)
def test_wrappers_are_taken_out_of_names(name, plain):
    assert without_wrappers(name) == plain


def test_two_names_that_would_become_one_are_refused():
    twice = files.under("_orig_mod.", BACKBONE) | BACKBONE
    with pytest.raises(CheckpointError, match=r"_orig_mod\.conv1\.weight and conv1\.weight"):
        in_memory(twice)


def test_of_two_networks_prefix_chooses_and_the_run_id_can_tell():
    tree = {"state_dict": files.under("student.", BACKBONE) | files.under("mean_teacher.", OTHER)}
    with pytest.raises(CheckpointError, match=r"--prefix student\. or --prefix mean_teacher\."):
        in_memory(tree)
    first, second = in_memory(tree, prefix="student"), in_memory(tree, prefix="mean_teacher.")
    assert holds(first, BACKBONE)
    assert holds(second, OTHER)
    assert first.source.branch == "student." != second.source.branch
    (group,) = [group for group in first.dropped if group.reason == "not under --prefix student."]
    assert {name.removeprefix("state_dict.") for name in group.names} == set(files.under("mean_teacher.", OTHER))


@pytest.mark.parametrize(
    "beside",
    [
        {"adapter.weight": files.filled(4, 4)},
        {"head.weight": files.filled(4, 4)},
        {"conv1.weight": files.filled(4, 4)},
        {"net2.layer1.weight": files.filled(4)},
    ],
)
def test_what_lies_beside_is_not_silently_left(beside):
    tree = {"state_dict": files.under("net.", BACKBONE) | beside}
    with pytest.raises(CheckpointError, match=r"--prefix net\.") as caught:
        in_memory(tree)
    assert next(iter(beside)) in str(caught.value)
    found = in_memory(tree, prefix="net.")
    assert holds(found, BACKBONE)
    assert any(f"state_dict.{next(iter(beside))}" in group.names for group in found.dropped)


@pytest.mark.parametrize("how", ["missing", "renamed", "extra"])
def test_under_a_typed_prefix_every_tensor_counts(how):
    names = [name for name in BACKBONE if not name.endswith("num_batches_tracked")]
    for name in names:
        state = files.under("net.", BACKBONE)
        if how in ("missing", "renamed"):
            del state[f"net.{name}"]
        if how != "missing":
            state[f"net.{name}_old"] = BACKBONE[name]
        with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
            in_memory({"state_dict": state}, prefix="net.")


def test_a_prefix_that_is_not_there_lists_those_that_are():
    with pytest.raises(CheckpointError, match=r"no network under the prefix 'encoder'") as caught:
        in_memory({"state_dict": files.under("net.", BACKBONE)}, prefix="encoder")
    assert "--prefix net." in str(caught.value)
    with pytest.raises(CheckpointError, match="leave out --format and --branch"):
        in_memory(dict(CHEAP), prefix="", format="torchvision")


def test_a_format_that_knows_the_file_keeps_its_facts():
    backbone = in_memory(moco.build(CHEAP, 2), prefix="module.encoder_k.")
    assert backbone.source.branch == "module.encoder_k."
    assert any("format moco" in note for note in backbone.notes)
    swav = {**files.under("module.", BACKBONE), "module.prototypes.weight": files.filled(30, 128)}
    assert in_memory(swav, prefix="module.").input.std[0] == 0.228


def test_the_average_is_taken_and_the_counter_listed():
    backbone = in_memory(model_ema(CHEAP))
    assert backbone.source.branch == "ema"
    assert any("model_ema.n_averaged" in group.names for group in backbone.dropped)
    assert any("AveragedModel" in note for note in backbone.notes)


def test_inspect_and_convert_take_a_prefix(tmp_path, capsys):
    tree = {"state_dict": files.under("a.", BACKBONE) | files.under("b.", OTHER)}
    path = files.write(tree, tmp_path / "two.pth", "zip")
    assert main(["inspect", str(path)]) == 1
    assert "--prefix a. or --prefix b." in capsys.readouterr().out
    assert main(["inspect", str(path), "--prefix", "b."]) == 0
    assert "branch b." in capsys.readouterr().out
    convert(path, "torchvision", tmp_path / "out.pth", prefix="b.")
    written = torch.load(tmp_path / "out.pth", weights_only=True)
    assert all(torch.equal(written[name], value) for name, value in OTHER.items())


def test_a_refusal_shows_the_three_nearest_formats():
    spoilt = moco.build(CHEAP, 2)
    weights = {name.replace("encoder_q", "encoder_x"): value for name, value in spoilt["state_dict"].items()}
    with pytest.raises(CheckpointError) as caught:
        in_memory(spoilt | {"state_dict": weights})
    lines = [line for line in str(caught.value).splitlines() if "not " in line and ", which knows" in line]
    assert 1 <= len(lines) <= 3
    assert "not moco, which knows" in lines[0]
    assert "no name begins with encoder_q." in lines[0]


@pytest.mark.parametrize(
    ("which", "prefix", "arch"),
    [
        ("moco_v3_vit", "module.momentum_encoder.", "vit_small_patch16_224.h12"),
        ("dino_vit_full", "student.module.backbone.", "vit_small_patch16_224.offset"),
    ],
)
def test_what_a_format_knows_of_its_networks_holds_under_a_typed_prefix_too(which, prefix, arch):
    release = all_releases()[which]
    tree = release.build(files.cheap_state(release.archs[0]))
    assert in_memory(tree, prefix=prefix).arch == arch


@pytest.mark.parametrize("start", ["", "backbone.", "net."])
def test_a_vit_of_nobody_known_is_read_alike_wherever_it_lies_and_says_what_is_assumed(start):
    state = files.without_fc(files.cheap_state("vit_192x2_patch16_64"))
    backbone = in_memory({"state_dict": {start + name: tensor for name, tensor in state.items()}})
    assert backbone.arch == "vit_192x2_patch16_64.antialias"
    assert any("how many heads" in note for note in backbone.notes)
