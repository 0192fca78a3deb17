"""Every layout is recognised by its own format alone, gives the right tensors, and is refused if one key is off."""

from __future__ import annotations

from pathlib import Path

import checkpoint_files as files
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st

from transfer.backbone import Backbone, InputSpec
from transfer.checkpoint import backbone_from, read_backbone
from transfer.container import Contents
from transfer.convert import TARGETS, convert
from transfer.errors import CheckpointError
from transfer.formats import all_formats, choose, opinions
from transfer.inspect import describe
from transfer.layout import Drop, Match, separate

torch.set_num_threads(1)
CHEAP = files.cheap_state("resnet18")
NAMES = [name for name in files.without_fc(CHEAP) if not name.endswith("num_batches_tracked")]
SPOILT = (
    ("conv1.weight", "missing"),
    ("bn1.running_var", "renamed"),
    ("layer1.0.conv1.weight", "reshaped"),
    ("layer2.0.downsample.1.bias", "renamed"),
    ("layer4.1.bn2.weight", "missing"),
)
layouts = pytest.mark.parametrize("layout", files.LAYOUTS.values(), ids=files.LAYOUTS)


def in_memory(tree: files.Tree, **options) -> Backbone:
    tree = {key: as_tensors(value) for key, value in tree.items()}
    return backbone_from(Contents(tree, "memory", 0, "0" * 64), Path("file.pth"), **options)


def as_tensors(value):
    if isinstance(value, dict):
        return {key: as_tensors(inner) for key, inner in value.items()}
    return value if not hasattr(value, "__array__") or isinstance(value, torch.Tensor) else torch.from_numpy(value)


def same(backbone: Backbone, state: files.State) -> bool:
    wanted = files.without_fc(state)
    return backbone.state.keys() == wanted.keys() and all(torch.equal(backbone.state[k], v) for k, v in wanted.items())


def test_one_module_is_one_format():
    assert set(all_formats()) == {"barlow_vicreg", "detectron2", "mmdet", "moco", "msbreg", "torchvision"}


@layouts
def test_file_is_claimed_by_its_format_alone_and_gives_the_tensors(layout, tmp_path):
    tree = layout.build(CHEAP)
    path = files.write(tree, tmp_path / "file.bin", layout.container)
    fitting = [name for name, view in opinions(as_tensors(tree)).items() if isinstance(view, Match)]
    assert fitting == [layout.format]
    backbone = read_backbone(path)
    assert backbone.source.format == layout.format
    assert backbone.arch == "resnet18"
    assert same(backbone, CHEAP)
    assert all(tensor.dtype in (torch.float32, torch.int64) for tensor in backbone.state.values())


@layouts
def test_everything_in_the_file_is_used_or_dropped_with_a_reason(layout):
    tree = layout.build(CHEAP)
    backbone = in_memory(tree)
    dropped = {name for group in backbone.dropped for name in group.names}
    weights = layout.weights(tree)
    used = {layout.key(name) for name in backbone.state}
    where = "online." if layout.format == "msbreg" else ""
    assert {name for name in weights if name not in used} == {
        name.removeprefix(where) for name in dropped if name.startswith(where) and name.removeprefix(where) in weights
    }
    assert all(group.reason for group in backbone.dropped)
    if layout.place:
        assert dropped >= {key for key in tree if key not in (*layout.place, "target")}


@layouts
def test_a_resnet50_is_recognised(layout):
    assert in_memory(layout.build(files.cheap_state("resnet50"))).arch == "resnet50"


@pytest.mark.parametrize("arch", ["resnet34", "resnet101"])
def test_the_architecture_is_read_from_the_shapes(arch):
    assert in_memory(files.moco(files.cheap_state(arch), 2)).arch == arch


def break_key(weights: dict, key: str, how: str) -> str:
    """Spoil one entry and return the name that the message must hold."""
    value = weights.pop(key)
    if how == "renamed":
        weights[f"{key}_old"] = value
    elif how == "reshaped":
        weights[key] = torch.zeros(*value.shape, 2)
    return key


@layouts
@pytest.mark.parametrize(("name", "how"), SPOILT)
def test_one_spoilt_tensor_is_refused_by_name(layout, name, how):
    tree = layout.build(CHEAP)
    break_key(layout.weights(tree), layout.key(name), how)
    with pytest.raises(CheckpointError) as caught:
        in_memory(tree)
    # a left-over name may be reported in the file's own spelling, before anything is missing
    assert name in str(caught.value) or layout.key(name) + "_old" in str(caught.value)


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(list(files.LAYOUTS)), st.sampled_from(NAMES), st.sampled_from(["missing", "renamed", "reshaped"])
)
def test_any_spoilt_tensor_is_refused_by_name(which, name, how):
    layout = files.LAYOUTS[which]
    tree = layout.build(CHEAP)
    break_key(layout.weights(tree), layout.key(name), how)
    with pytest.raises(CheckpointError) as caught:
        in_memory(tree)
    assert name in str(caught.value) or layout.key(name) + "_old" in str(caught.value)


@layouts
def test_an_additional_tensor_is_refused_by_name(layout):
    tree = layout.build(CHEAP)
    layout.weights(tree)[layout.key("layer1.0.surprise.weight")] = torch.zeros(3)
    with pytest.raises(CheckpointError, match="surprise"):
        in_memory(tree)


@pytest.mark.parametrize("which", ["lincls", "moco_v2", "barlow", "msbreg", "detectron2", "mmdet"])
def test_an_unknown_network_beside_the_weights_is_refused_by_name(which):
    tree = files.LAYOUTS[which].build(CHEAP) | {"ema_network": {"conv1.weight": torch.zeros(1)}}
    with pytest.raises(CheckpointError, match="ema_network"):
        in_memory(tree)


def test_batch_counters_may_be_absent():
    for layout in files.LAYOUTS.values():
        tree = layout.build(CHEAP)
        weights = layout.weights(tree)
        for name in [name for name in weights if name.endswith("num_batches_tracked")]:
            del weights[name]
        assert in_memory(tree).tensor_count == len(NAMES)


@pytest.mark.parametrize(
    ("which", "branch", "default"),
    [("moco_v2", "key", "query"), ("moco_v1", "key", "query"), ("msbreg", "target", "online")],
)
def test_the_other_branch_is_taken_when_asked_for(which, branch, default):
    tree = files.LAYOUTS[which].build(CHEAP)
    taken, other = in_memory(tree), in_memory(tree, branch=branch)
    assert (taken.source.branch, other.source.branch) == (default, branch)
    assert float(taken.state["conv1.weight"].flatten()[0]) == 0.25
    assert float(other.state["conv1.weight"].flatten()[0]) == 2.0  # what the generator puts in the slow copy
    with pytest.raises(CheckpointError, match="teacher"):
        in_memory(tree, branch="teacher")


def test_a_branch_of_a_single_network_is_refused():
    with pytest.raises(CheckpointError, match="no branch 'key'"):
        in_memory(dict(CHEAP), branch="key")


def test_barlow_twins_and_vicreg_are_told_apart():
    notes = {which: in_memory(files.LAYOUTS[which].build(CHEAP)).notes for which in ("barlow", "vicreg")}
    assert any("Barlow Twins" in note for note in notes["barlow"])
    assert any("VICReg" in note for note in notes["vicreg"])


def test_no_format_shows_keys_reasons_and_the_option():
    with pytest.raises(CheckpointError) as caught:
        choose({"blocks.0.attn.qkv.weight": torch.zeros(3), "cls_token": torch.zeros(1)})
    text = str(caught.value)
    assert "blocks.0.attn.qkv.weight" in text
    assert "--format" in text
    assert all(f"not {name}:" in text for name in all_formats())


def test_two_formats_are_an_error_and_either_can_be_forced():
    tree = {"state_dict": files.moco(CHEAP, 2)["state_dict"], "model": files.barlow_or_vicreg(CHEAP, "vicreg")["model"]}
    with pytest.raises(CheckpointError, match="barlow_vicreg, moco") as caught:
        choose(tree)
    assert "--format moco" in str(caught.value)
    assert choose(tree, "moco").NAME == "moco"


@pytest.mark.parametrize("name", ["barlow_vicreg", "detectron2", "mmdet", "moco", "msbreg", "torchvision"])
@pytest.mark.parametrize("tree", [{}, {"state_dict": 3}, {"model": [1]}, {"x": torch.zeros(2)}])
def test_forcing_a_wrong_format_is_a_clear_error(name, tree):
    with pytest.raises(CheckpointError):
        in_memory(tree, format=name)


def test_forcing_an_unknown_format_lists_the_known_ones():
    with pytest.raises(CheckpointError, match="moco, msbreg, torchvision"):
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
        in_memory(files.msbreg(CHEAP) | change)


def test_own_checkpoints_state_their_input():
    spec = in_memory(files.msbreg(CHEAP)).input
    assert spec == InputSpec("RGB", 1.0, (0.5, 0.4, 0.3), (0.2, 0.3, 0.25))


def test_mmdet_files_of_another_hand_state_their_input_in_255():
    tree = files.mmdet(CHEAP)
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
@pytest.mark.parametrize("to", TARGETS)
def test_conversion_keeps_every_bit_and_the_input(arch, to, tmp_path):
    if arch == "resnet18":
        state = files.real_state(arch)
        source = files.write(files.msbreg(state), tmp_path / "source.pth", "zip")
    else:
        state = files.cheap_state(arch)
        tree = files.msbreg(state) | {"arch": arch}
        source = files.write(tree, tmp_path / "source.pth", "zip")
    out = tmp_path / ("out.pkl" if to == "detectron2" else "out.pth")
    summary = convert(source, to, out)
    original, back = read_backbone(source), read_backbone(out)
    assert back.source.format == to
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
            assert torch.equal(model.eval()(images), back.as_torchvision()(images))


@layouts
def test_forward_equals_the_network_that_was_saved(layout):
    state = files.real_state("resnet18", seed=1)
    model = torchvision.models.resnet18(weights=None)
    model.load_state_dict(state)
    model.fc = torch.nn.Identity()
    images = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(model.eval()(images), in_memory(layout.build(state)).as_torchvision()(images))


def test_torchvision_target_is_a_bare_state_dict_for_torchvision(tmp_path):
    source = files.write(dict(CHEAP), tmp_path / "in.pth", "zip")
    convert(source, "torchvision", tmp_path / "out.pth")
    model = torchvision.models.resnet18(weights=None)
    model.fc = torch.nn.Identity()
    model.load_state_dict(torch.load(tmp_path / "out.pth", weights_only=True))


def test_caffe_strides_are_not_written_for_torchvision(tmp_path):
    tree = files.mmdet(CHEAP)
    tree["meta"]["style"] = "caffe"
    source = files.write(tree, tmp_path / "in.pth", "zip")
    with pytest.raises(CheckpointError, match="1×1"):
        convert(source, "torchvision", tmp_path / "out.pth")
    assert not (tmp_path / "out.pth").exists()
    convert(source, "detectron2", tmp_path / "out.pkl")
    assert read_backbone(tmp_path / "out.pkl").stride_in_1x1


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
    path = files.write(files.moco(CHEAP, 2), tmp_path / "moco.pth.tar", "zip")
    text = describe(path)
    for part in ("MoCo v2", "branch query", "resnet18", "120 tensors", "the key encoder", "queue of negatives", "RGB"):
        assert part in text
    assert read_backbone(path).source.sha256 in text
    assert f"{path.stat().st_size:,} bytes" in text


def test_inspect_describes_a_file_that_is_no_backbone(tmp_path):
    path = files.write(
        {"cls_token": torch.zeros(1), "blocks": {"0.weight": torch.zeros(2)}}, tmp_path / "vit.pth", "zip"
    )
    text = describe(path)
    for part in ("cls_token", "0.weight", "not moco:", "no backbone", "--format"):
        assert part in text
