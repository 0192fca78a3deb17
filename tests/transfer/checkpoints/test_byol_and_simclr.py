"""BYOL's and SimCLR's releases beyond what holds for all: dill's pickles, doubled networks, order of names."""

from __future__ import annotations

import pickle
import pickletools

import checkpoint_files as files
import pytest
import torch
from checkpoint_files import in_memory
from releases import all_releases, byol_deepmind

from transfer.checkpoints.read import read_backbone
from transfer.checkpoints.unpickle import JAX
from transfer.runtime.errors import CheckpointError

STATE = files.cheap_state("resnet50")


def dill_pickle(*calls: tuple[str, tuple[object, ...]]) -> bytes:
    """A pickle of a dict whose values are what these functions ("module name") return, without their modules."""
    parts = [b"\x80\x02}("]
    for index, (function, arguments) in enumerate(calls):
        parts += [b"X\x01\x00\x00\x00%d" % index, b"c%s\n" % function.replace(" ", "\n").encode()]
        parts += [pickle.dumps(arguments, protocol=2)[2:-1], b"R"]
    return b"".join([*parts, b"u."])


def test_the_file_names_the_globals_that_the_real_libraries_write(tmp_path):
    tree = all_releases()["byol_deepmind"].build(STATE)
    data = files.write(tree, tmp_path / "byol.pkl", "pickle2").read_bytes()
    named = {argument for code, argument, _ in pickletools.genops(data) if code.name == "GLOBAL"}
    core = next(name for name in named if name.endswith("multiarray _reconstruct"))
    assert named == {  # listed from a file made by dill 0.4.1, dm-haiku 0.0.17, jax 0.10.2 and optax 0.2.8
        core,
        "numpy ndarray",
        "numpy dtype",
        "_codecs encode",
        "dill._dill _create_namedtuple",
        "dill._dill _create_array",
        "haiku._src.data_structures FlatMapping",
        "jax._src.array _reconstruct_array",
    }


@pytest.mark.parametrize("stem", ["initial_conv", "initial_conv_1"])
def test_both_names_of_the_first_convolution(stem):
    backbone = in_memory(byol_deepmind.build(STATE, stem=stem))
    assert torch.equal(backbone.state["conv1.weight"], STATE["conv1.weight"])


def test_a_pre_activation_resnet_of_haiku_is_refused():
    tree = byol_deepmind.build(STATE)
    tree["experiment_state"]["online_params"]["res_net50/~/final_batchnorm"] = {}
    with pytest.raises(CheckpointError, match="pre-activation"):
        in_memory(tree)


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        ("dill._dill _create_function", (1, 2)),
        ("dill._dill _create_type", (1, 2)),
        ("dill._dill _import_module", ("os.system",)),
        ("dill._dill _load_type", ("CodeType",)),
        ("dill._dill _eval_repr", ("1 + 1",)),
        ("dill._dill _get_attr", ("os", "system")),
    ],
)
def test_what_dill_can_also_do_is_refused_by_name(function, arguments, tmp_path):
    path = tmp_path / "byol.pkl"
    path.write_bytes(dill_pickle((function, arguments)))
    with pytest.raises(CheckpointError, match=function.replace(" ", r"\.")):
        read_backbone(path)


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        ("dill._dill _create_namedtuple", ("State", 7, "os")),
        ("dill._dill _create_namedtuple", ("State", (1, 2), "os")),
        ("dill._dill _create_array", (print, ("a",), (), None)),
        ("jax._src.array _reconstruct_array", (1,)),
        ("haiku._src.data_structures FlatMapping", (7,)),
    ],
)
def test_admitted_functions_take_nothing_else(function, arguments, tmp_path):
    path = tmp_path / "byol.pkl"
    path.write_bytes(dill_pickle((function, arguments)))
    with pytest.raises(CheckpointError):
        read_backbone(path)


def test_no_admitted_function_can_be_changed():
    for stand_in in JAX.values():
        with pytest.raises(pickle.UnpicklingError):
            stand_in._function = print


@pytest.mark.parametrize("name", ["online_encoder.net.layer3.2.bn2.weight", "net.layer1.0.conv1.weight"])
def test_two_names_of_one_network_must_agree(name):
    tree = all_releases()["byol_lucidrains"].build(STATE)
    tree[name] = tree[name] + 1
    with pytest.raises(CheckpointError, match="the two differ") as caught:
        in_memory(tree)
    assert name.removeprefix("online_encoder.") in str(caught.value)


def test_a_second_copy_that_torch_cannot_compare_is_refused():
    tree = all_releases()["byol_lucidrains"].build(STATE)
    name = "online_encoder.net.bn1.weight"
    for spoilt in (tree[name].to_sparse(), tree[name].to("meta")):
        with pytest.raises(CheckpointError, match="the two differ"):
            in_memory(tree | {name: spoilt})


def test_simclr_without_its_order_is_a_plain_resnet_unless_forced(tmp_path):
    path = files.write(dict(STATE), tmp_path / "simclr.safetensors", "safetensors")
    assert read_backbone(path).source.format == "torchvision"
    backbone = read_backbone(path, format="simclr_tonylins")
    assert backbone.same_padding
    assert backbone.input.std == (1.0, 1.0, 1.0)


def test_simclr_v2_in_safetensors(tmp_path):
    tree = all_releases()["simclr_v2"].build(STATE)["resnet"]
    path = files.write(tree, tmp_path / "r50_1x_sk0.safetensors", "safetensors")
    assert read_backbone(path).source.format == "simclr_v2"
