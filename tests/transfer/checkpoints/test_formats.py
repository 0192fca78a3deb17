"""Choosing a format, forcing one, converting; what holds for every released layout is in `test_releases.py`."""

from __future__ import annotations

from typing import get_args, get_type_hints

import checkpoint_files as files
import pytest
import torch
import torchvision
from checkpoint_files import in_memory
from releases import mmdet, moco, msbreg, vicreg

from transfer.__main__ import Convert
from transfer.checkpoints.backbone import InputSpec
from transfer.checkpoints.formats import all_formats, choose, recognised
from transfer.checkpoints.inspect import examine
from transfer.checkpoints.read import read_backbone
from transfer.checkpoints.rules import Drop, separate
from transfer.checkpoints.write import TARGETS, WRITERS, convert
from transfer.runtime.errors import CheckpointError

torch.set_num_threads(1)
CHEAP = files.cheap_state("resnet18")


OF_RESNETS = [to for to, writers in WRITERS.items() if "resnet" in writers]


@pytest.mark.parametrize("arch", ["resnet34", "resnet101"])
def test_the_architecture_is_read_from_the_shapes(arch):
    assert in_memory(moco.build(files.cheap_state(arch), 2)).arch == arch


def test_a_branch_of_a_single_network_is_refused():
    with pytest.raises(CheckpointError, match="no branch 'key'"):
        in_memory(dict(CHEAP), branch="key")


def test_no_format_shows_keys_reasons_and_the_option():
    with pytest.raises(CheckpointError) as caught:
        choose({"resblocks.0.attn.in_proj_weight": torch.zeros(3), "class_embedding": torch.zeros(1)})
    text = str(caught.value)
    assert "resblocks.0.attn.in_proj_weight" in text
    assert "--format" in text
    assert "no format knows a single one of the 2 tensors" in text


def test_two_formats_are_an_error_and_either_can_be_forced():
    tree = {"state_dict": moco.build(CHEAP, 2)["state_dict"], "model": vicreg.build(CHEAP, barlow=False)["model"]}
    with pytest.raises(CheckpointError, match="moco, vicreg") as caught:
        choose(tree)
    assert "--format moco" in str(caught.value)
    assert choose(tree, "moco").name == "moco"


def test_a_specific_format_is_asked_before_a_general_one_and_leaves_nothing_unsaid():
    tree = {"state_dict": moco.build(CHEAP, 2)["state_dict"], "model": dict(CHEAP)}
    assert recognised(tree) == ["moco"]
    with pytest.raises(CheckpointError, match="left over: model"):
        in_memory(tree)
    assert recognised({"model": tree["model"]}) == ["torchvision"]


@pytest.mark.parametrize("name", list(all_formats()))
@pytest.mark.parametrize("tree", [{}, {"state_dict": 3}, {"model": [1]}, {"x": torch.zeros(2)}])
def test_forcing_a_wrong_format_is_a_clear_error(name, tree):
    with pytest.raises(CheckpointError):
        in_memory(tree, format=name)


@pytest.mark.parametrize(("outputs", "classifier"), [(1000, True), (205, True), (128, False)])
def test_a_head_of_an_embeddings_width_is_called_no_classifier(outputs, classifier):
    backbone = in_memory({**CHEAP, "fc.weight": files.filled(outputs, 512)})
    assert any(lint.code == "classifier" for lint in backbone.lints) == classifier


def test_a_forced_reading_is_another_run_than_the_recognised_one():
    # SimCLR's network in a file that lost the order of its names: the same tensors, other pixels
    as_found, forced = in_memory(dict(CHEAP)), in_memory({"state_dict": CHEAP}, format="simclr_tonylins")
    assert as_found.input != forced.input
    assert (as_found.source.branch, forced.source.branch) == ("only", "only as simclr_tonylins")
    assert any("--format" in note for note in forced.notes)
    assert in_memory(dict(CHEAP), format="torchvision").source.branch == "only"


def test_forcing_an_unknown_format_lists_the_known_ones():
    with pytest.raises(CheckpointError, match=r"moco, .*msbreg, .*torchvision"):
        in_memory(dict(CHEAP), format="nothing")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "version 2"),
        ({"version": torch.zeros(3)}, "version"),
        ({"stem": "cifar"}, "stem 'cifar'"),
        ({"arch": "resnet50"}, "does not fill a resnet50"),
        ({"arch": "vit_small"}, "vit_small"),
        ({"input": None}, "normalised"),
        ({"input": {"channels": "RGB", "value_range": 1.0, "mean": [0, 0], "std": [1, 1, 1]}}, "mean"),
        ({"input": {"channels": "YUV", "value_range": 1.0, "mean": [0, 0, 0], "std": [1, 1, 1]}}, "impossible"),
        ({"input": {"channels": "RGB", "value_range": 1.0, "mean": [0, 0, 0], "std": [1, 0, 1]}}, "impossible"),
        ({"online": {}}, "no tensors under 'online'"),
    ],
)
def test_own_checkpoints_with_wrong_statements_are_refused(change, message):
    with pytest.raises(CheckpointError, match=message):
        in_memory(msbreg.build(CHEAP) | change)


def test_own_checkpoints_state_their_input():
    spec = in_memory(msbreg.build(CHEAP)).input
    assert spec == InputSpec("RGB", 1.0, (0.5, 0.4, 0.3), (0.2, 0.3, 0.25))


def test_mmdet_files_of_another_hand_state_their_input_in_255():
    tree = mmdet.build(CHEAP)
    tree["meta"] |= {"bgr_to_rgb": False, "style": "caffe"}
    backbone = in_memory(tree)
    assert backbone.input == InputSpec("BGR", 255.0, (123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
    assert backbone.stride_in_1x1
    tree["meta"]["style"] = "tensorflow"
    with pytest.raises(CheckpointError, match="stride"):
        in_memory(tree)


def test_rules_are_anchored_at_the_beginning():
    weights = {"a.b.weight": torch.zeros(1), "ab.weight": torch.zeros(1), "x.a.b.weight": torch.zeros(1)}
    with pytest.raises(CheckpointError) as caught:
        separate(weights, "a.", [Drop("b.", "never"), Drop("ab", "exact only")])
    assert "2 left over: ab.weight, x.a.b.weight" in str(caught.value)


@pytest.mark.parametrize(
    "arch",
    ["resnet18", *(pytest.param(f"resnet{depth}", marks=pytest.mark.slow) for depth in (34, 50, 101))],
)
@pytest.mark.parametrize("to", [pytest.param(to, marks=() if to == "mmdet" else pytest.mark.slow) for to in OF_RESNETS])
def test_conversion_keeps_every_bit_and_the_input(arch, to, tmp_path):
    if arch == "resnet18":
        state = files.real_state(arch)
        source = files.write(msbreg.build(state), tmp_path / "source.pth", "zip")
    else:
        state = files.cheap_state(arch)
        tree = msbreg.build(state) | {"arch": arch}
        source = files.write(tree, tmp_path / "source.pth", "zip")
    out = tmp_path / f"out{TARGETS[to].suffix}"
    summary = convert(source, to, out)
    original, back = read_backbone(source), read_backbone(out)
    assert to in all_formats()[back.source.format].targets
    assert f"{original.tensor_count} of {original.tensor_count}" in summary
    for name, tensor in original.state.items():
        assert tensor.numpy().tobytes() == back.state[name].numpy().tobytes(), name
    assert (back.input, back.arch, back.stride_in_1x1) == (original.input, arch, False)
    if arch == "resnet18":
        model = torchvision.models.resnet18(weights=None)
        model.load_state_dict(state)
        model.fc = torch.nn.Identity()
        images = torch.rand(2, 3, 32, 32)
        with torch.no_grad():
            assert torch.equal(model.eval()(images), back.network()(images))


def test_torchvision_target_is_a_bare_state_dict_for_torchvision(tmp_path):
    source = files.write(dict(CHEAP), tmp_path / "in.pth", "zip")
    convert(source, "torchvision", tmp_path / "out.pth")
    model = torchvision.models.resnet18(weights=None)
    model.fc = torch.nn.Identity()
    model.load_state_dict(torch.load(tmp_path / "out.pth", weights_only=True))


@pytest.mark.slow
def test_caffe_strides_are_not_written_for_torchvision(tmp_path):
    tree = mmdet.build(files.cheap_state("resnet50"))
    tree["meta"]["style"] = "caffe"
    source = files.write(tree, tmp_path / "in.pth", "zip")
    with pytest.raises(CheckpointError, match="1×1"):
        convert(source, "torchvision", tmp_path / "out.pth")
    assert not (tmp_path / "out.pth").exists()
    convert(source, "detectron2", tmp_path / "out.pkl")
    assert read_backbone(tmp_path / "out.pkl").stride_in_1x1


def test_the_command_line_names_every_target():
    assert set(get_args(get_type_hints(Convert)["to"])) == set(TARGETS)


@pytest.mark.parametrize(
    ("to", "out", "message"),
    [
        ("torchvision", "in.pth", "the input file itself"),
        ("torchvision", "link.pth", "the input file itself"),
        ("torchvision", ".", "is a folder"),
        ("detectron2", "out.pth", r"end in \.pkl"),
        ("mmdet", "out.pkl", r"not end in \.pkl"),
        ("keras", "out.pth", "cannot convert"),
    ],
)
def test_conversion_refuses_a_wrong_target(to, out, message, tmp_path):
    source = files.write(dict(CHEAP), tmp_path / "in.pth", "zip")
    (tmp_path / "link.pth").symlink_to(source)
    before = source.read_bytes()
    with pytest.raises(CheckpointError, match=message):
        convert(source, to, tmp_path / out)
    assert source.read_bytes() == before


def test_inspect_says_what_a_file_is(tmp_path):
    path = files.write(moco.build(CHEAP, 2), tmp_path / "moco.pth.tar", "zip")
    text = examine(path).text
    for part in ("MoCo v2", "branch query", "resnet18", "120 tensors", "the key network", "queue of negatives", "RGB"):
        assert part in text
    assert read_backbone(path).source.sha256 in text
    assert f"{path.stat().st_size:,} bytes" in text


def test_inspect_describes_a_file_that_is_no_backbone(tmp_path):
    path = files.write(
        {"cls_token": torch.zeros(1), "blocks": {"0.weight": torch.zeros(2)}}, tmp_path / "vit.pth", "zip"
    )
    text = examine(path).text
    for part in ("cls_token", "0.weight", "no backbone", "--format", "--all"):
        assert part in text
    assert "not moco:" not in text
    every = examine(path, every=True).text
    assert all(f"not {name}:" in every for name in all_formats())
