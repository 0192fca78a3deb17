"""Reading files: what is accepted, what is no checkpoint, and in which words that is said."""

from __future__ import annotations

import argparse
import collections
import gzip
import io
import os
import pickle
import shutil
import subprocess
import tarfile
import zipfile
from pathlib import Path

import checkpoint_files as files
import numpy as np
import pytest
import torch
from checkpoint_files import refused, zipped

import transfer.checkpoints.container
from transfer.checkpoints.container import read_contents
from transfer.checkpoints.inspect import examine
from transfer.checkpoints.read import read_backbone

torch.set_num_threads(1)
CHEAP = files.cheap_state("resnet18")
BACKBONE = files.without_fc(CHEAP)


# containers


@pytest.mark.parametrize("container", ["zip", "legacy", "zip+gzip", "legacy+gzip"])
@pytest.mark.parametrize("name", ["a.pth", "b.pkl", "c", "d.safetensors", "sp ace é.gz"])
def test_containers_are_told_by_contents_and_not_by_name(container, name, tmp_path):
    backbone = read_backbone(files.write(dict(CHEAP), tmp_path / name, container))
    assert all(torch.equal(backbone.state[key], value) for key, value in BACKBONE.items())


@pytest.mark.parametrize("container", ["safetensors", "safetensors+gzip"])
def test_safetensors(container, tmp_path):
    backbone = read_backbone(files.write(dict(CHEAP), tmp_path / "file.pth", container))
    assert all(torch.equal(backbone.state[key], value) for key, value in BACKBONE.items())


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_pickled_numpy_arrays_in_every_protocol(protocol, tmp_path):
    tree = {
        "c": np.arange(6, dtype=np.float32).reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6, dtype=">f8").reshape(2, 3)),
        "half": np.float16([[0.5], [2]]),
        "count": np.array(3, dtype=np.int64),
        "empty": np.zeros((0, 3), np.float32),
        "scalar": np.float64(0.25),
        "nested": collections.OrderedDict(x={1, 2}, y=[True, None, 1.5, 2**70, b"\xff", "é"]),
        "words": np.array(["a", "bc"]),
    }
    path = tmp_path / "arrays.pkl"
    path.write_bytes(pickle.dumps(tree, protocol=protocol))
    read = read_contents(path).tree
    for name in ("c", "fortran", "half", "count", "empty"):
        assert read[name].shape == tree[name].shape
        assert np.array_equal(read[name].numpy(), tree[name])
    assert read["scalar"] == 0.25
    assert read["nested"]["y"] == [True, None, 1.5, 2**70, b"\xff", "é"]
    assert read["nested"]["x"] == {1, 2}
    assert read["words"] is None


def test_pickle_of_python_2(tmp_path):
    # What Python 2 and numpy 1 wrote for {"w": np.float32([1, 2])}: names of old modules, bytes as str.
    raw = np.float32([1, 2]).tobytes()
    text = (
        b"\x80\x02}q\x01U\x01wcnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x02\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89U" + bytes([len(raw)]) + raw + b"tbs."
    )
    path = tmp_path / "caffe2.pkl"
    path.write_bytes(text)
    assert read_contents(path).tree["w"].tolist() == [1.0, 2.0]


def test_numpy_values_in_torch_files(tmp_path):
    arrays = {name: tensor.numpy() for name, tensor in BACKBONE.items()}
    path = files.write({"state_dict": arrays, "best": np.float64(0.5)}, tmp_path / "numpy.pth", "zip")
    assert torch.equal(read_backbone(path).state["bn1.bias"], BACKBONE["bn1.bias"])


@pytest.mark.parametrize("container", ["zip", "legacy"])
def test_settings_of_the_training_run_are_admitted_by_name_and_not_read(container, tmp_path):
    tree = {"state_dict": dict(CHEAP), "args": argparse.Namespace(lr=0.1, arch="resnet18")}
    backbone = read_backbone(files.write(tree, tmp_path / "args.pth", container))
    assert any("args" in group.names for group in backbone.dropped)


@pytest.mark.parametrize("container", ["zip", "legacy"])
def test_paths_among_the_settings_are_admitted_and_not_read(container, tmp_path):
    tree = {"state_dict": dict(CHEAP), "hyper_parameters": {"data": Path("/data/imagenet"), "lr": 0.1}}
    backbone = read_backbone(files.write(tree, tmp_path / "paths.ckpt", container))
    assert any("hyper_parameters" in group.names for group in backbone.dropped)


def test_omegaconf_settings_are_admitted_without_being_built(tmp_path):
    omegaconf = pytest.importorskip("omegaconf")
    tree = {"state_dict": dict(CHEAP), "cfg": omegaconf.OmegaConf.create({"a": [1, {"b": 0.5}], "c": "x", "d": True})}
    read_backbone(files.write(tree, tmp_path / "cfg.pth", "zip"))


def test_sha256_is_of_the_file_on_disk(tmp_path):
    path = files.write(dict(CHEAP), tmp_path / "a.gz", "zip+gzip")
    answer = subprocess.run(["sha256sum", path], capture_output=True, text=True, check=True).stdout.split()[0]
    assert read_backbone(path).source.sha256 == answer


# what is no checkpoint


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "an empty file"),
        (b"\n<!DOCTYPE html><html>Not found</html>", "the download link led to a web page"),
        (b"<html>", "HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n", "git lfs pull"),
        (b'{"weight_map": {}}', "a JSON file"),
        (b"404: Not Found", "text file that begins '404: Not Found'"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"\x08\x08\x12\x07pytorch\x1a\x05", "an ONNX model"),
        (b"\x1c\x00\x00\x00TFL3", "TensorFlow Lite"),
        (b'model_checkpoint_path: "model.ckpt-1"\n', "TensorFlow's list of checkpoints"),
        (b"\x89PNG\r\n\x1a\n" + bytes(20), "a PNG picture"),
        (b"BZh91AY&SY", "bzip2 -d"),
        (b"\x00" * 64, "unknown contents"),
        (gzip.compress(b"<html></html>", mtime=0), "HTML page"),
        (gzip.compress(gzip.compress(b"x", mtime=0), mtime=0), "inside a gzip file"),
        (gzip.compress(b"", mtime=0), "an empty file"),
    ],
)
def test_what_is_no_checkpoint_is_named(content, words, tmp_path):
    path = tmp_path / "resnet50.pth"
    path.write_bytes(content)
    refused(path, words)


def test_archives_are_named(tmp_path):
    with tarfile.open(tmp_path / "a.pth.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("x"))
    refused(tmp_path / "a.pth.tar", "a tar archive")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("inner.pth", b"x")
    refused(tmp_path / "a.zip", "no checkpoint", "inner.pth", "unzip")
    torch.jit.script(torch.nn.ReLU()).save(str(tmp_path / "script.pt"))
    refused(tmp_path / "script.pt", "TorchScript")


def test_one_checkpoint_in_a_zip_archive_is_read(tmp_path):
    # OBoW's feature extractor was released like this
    inner = files.write({"network": dict(CHEAP)}, tmp_path / "inner", "zip").read_bytes()
    path = zipped(tmp_path / "released.zip", folder__weights=inner, README=b"words about the weights")
    backbone = read_backbone(path)
    assert backbone.source.format == "obow"
    assert all(torch.equal(backbone.state[key], value) for key, value in BACKBONE.items())
    assert "in a zip archive" in examine(path).text
    assert backbone.source.sha256 in examine(path).text


def test_several_checkpoints_in_a_zip_archive_are_named(tmp_path):
    inner = files.write(dict(CHEAP), tmp_path / "inner", "legacy").read_bytes()
    refused(zipped(tmp_path / "two.zip", first=inner, second=inner), "several checkpoints", "first, second", "unzip")


def test_a_damaged_zip_archive_is_refused(tmp_path):
    inner = files.write(dict(CHEAP), tmp_path / "inner", "legacy").read_bytes()
    path = zipped(tmp_path / "one.zip", weights=inner)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 8
    path.write_bytes(content)
    refused(path, "damaged")


def taken_apart(path: Path, folder: Path) -> str:
    """The members of a torch file as files, under `folder`; returns the name of its own folder."""
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder)
        return archive.namelist()[0].split("/")[0]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("compressed", "zipped again, compressed"),
        ("deeper", "with another folder around its parts"),
        ("bare", "without its folder"),
        ("mac", "with another folder around its parts"),
        ("folder", "unpacked as if it were an archive"),
        ("data.pkl", "unpacked as if it were an archive"),
    ],
)
def test_a_torch_file_that_was_taken_apart_is_named_and_the_line_mends_it(name, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    whole = files.write(dict(CHEAP), tmp_path / "whole.pth", "zip")
    root = taken_apart(whole, tmp_path / "parts")
    parts = sorted(item for item in (tmp_path / "parts").rglob("*") if item.is_file())
    path = {"folder": tmp_path / "parts", "data.pkl": tmp_path / "parts" / root / "data.pkl"}.get(
        name, tmp_path / "again.pth"
    )
    if path.name == "again.pth":
        kind = zipfile.ZIP_DEFLATED if name == "compressed" else zipfile.ZIP_STORED
        with zipfile.ZipFile(path, "w", kind) as archive:
            if name == "mac":
                archive.writestr("__MACOSX/._data.pkl", b"")
            for part in parts:
                inner = part.relative_to(tmp_path / "parts" / (root if name == "bare" else ""))
                archive.write(part, f"deep/{inner}" if name == "deeper" else str(inner))
    text = refused(path, says)
    if shutil.which("zip") is None or shutil.which("unzip") is None:
        pytest.skip("the line needs zip and unzip")
    line = text.partition("to do: ")[2].partition(": ")[2]
    before = set(tmp_path.rglob("*.pth"))
    subprocess.run(line, shell=True, check=True)
    (mended,) = set(tmp_path.rglob("*.pth")) - before
    assert read_backbone(mended).state.keys() == BACKBONE.keys()


def test_folders_and_archives_of_other_frameworks_are_named(tmp_path):
    for name, inside, words in (
        ("saved_model", {"saved_model.pb": b"\x08\x01", "variables": None}, "SavedModel"),
        ("ckpt", {"m.ckpt-1.index": b"", "m.ckpt-1.data-00000-of-00001": b""}, "folder with a TensorFlow checkpoint"),
        ("dcp", {".metadata": b"", "__0_0.distcp": b""}, "dcp_to_torch"),
    ):
        (tmp_path / name).mkdir()
        for file, content in inside.items():
            (tmp_path / name / file).mkdir() if content is None else (tmp_path / name / file).write_bytes(content)
        refused(tmp_path / name, words)
    refused(tmp_path / "ckpt" / "m.ckpt-1", "m.ckpt-1.index", "TensorFlow")
    refused(zipped(tmp_path / "m.keras", **{"config.json": b"{}", "model.weights.h5": b""}), "Keras")
    np.savez(tmp_path / "arrays.npz", a=np.zeros(2))
    refused(tmp_path / "arrays.npz", "numpy")
    for name in ("model.onnx", "model.onnx.data", "model.onnx_data"):
        (tmp_path / name).write_bytes(b"\x00\x00\x80\x3f" * 8)
        refused(tmp_path / name, "ONNX", "torch.save")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({}, "an empty dict"),
        ({"epoch": 3, "lr": 0.1}, "not a single tensor"),
        ({"state": {0: {"momentum_buffer": torch.zeros(2)}}, "param_groups": [{"lr": 0.1}]}, "state of an optimiser"),
        ({"optimizer": {"state": {0: torch.zeros(2)}, "param_groups": []}, "epoch": 1}, "state of an optimiser"),
        ({"opt_g": {"state": {0: torch.zeros(2)}, "param_groups": []}}, "state of an optimiser"),
    ],
)
def test_files_without_a_network_are_named(content, says, tmp_path):
    torch.save(content, tmp_path / "file.pth")
    refused(tmp_path / "file.pth", says, "torch.save({'state_dict'")


@pytest.mark.parametrize("name", ["model.ckpt-250228.index", "model.ckpt-250228.data-00000-of-00001"])
def test_tensorflow_checkpoints_are_named(name, tmp_path):
    (tmp_path / name).write_bytes(b"\x00\x00\x0c\x08")
    refused(tmp_path / name, "TensorFlow", "simclr-converter")


def test_a_missing_file_names_its_neighbours(tmp_path):
    (tmp_path / "checkpoint_0199.pth.tar").touch()
    assert "did you mean" in refused(tmp_path / "checkpoint_0200.pth.tar", "checkpoint_0199.pth.tar")
    refused(tmp_path / "nowhere" / "x.pth", "nor its folder")


def test_a_folder_and_a_pipe_are_named(tmp_path):
    (tmp_path / "model.pth").touch()
    refused(tmp_path, "is a folder", "model.pth")
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", "a pipe")


@pytest.mark.parametrize("value", [[1, 2], "text", torch.zeros(3), None])
def test_a_file_without_a_dict_is_refused(value, tmp_path):
    torch.save(value, tmp_path / "value.pth")
    refused(tmp_path / "value.pth", type(value).__name__, "a checkpoint is a dict")


@pytest.mark.parametrize("container", ["zip", "legacy", "safetensors", "pickle", "zip+gzip"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9, 0.9999])
def test_a_file_that_was_cut_off_is_called_so(container, share, tmp_path):
    tree = {name: tensor.numpy() for name, tensor in BACKBONE.items()} if container == "pickle" else dict(BACKBONE)
    small = {name: tree[name] for name in list(tree)[:3]}
    path = files.write({"model": small} if container == "pickle" else small, tmp_path / "cut.pth", container)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    refused(path, "cut off or damaged", "sha256")


def test_a_flipped_bit_in_a_tensor_of_a_zip_is_found(tmp_path):
    path = tmp_path / "flip.pth"
    torch.save({**BACKBONE, "bn1.weight": torch.full((64,), 1.2345)}, path)
    data = bytearray(path.read_bytes())
    data[data.index(np.float32(1.2345).tobytes())] ^= 1
    path.write_bytes(data)
    torch.load(path, weights_only=True)  # torch itself does not notice
    refused(path, "cut off or damaged", "CRC")


def test_a_gzip_bomb_is_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(transfer.checkpoints.container, "MAX_UNPACKED", 3 * 2**20)
    bomb = io.BytesIO()
    torch.save({"x": torch.zeros(2**21)}, bomb)
    (tmp_path / "bomb.gz").write_bytes(gzip.compress(bomb.getvalue(), mtime=0))
    refused(tmp_path / "bomb.gz", "unpacks to more than")


def test_a_pickle_that_announces_more_than_it_holds_reserves_nothing(tmp_path):
    path = tmp_path / "greedy.pkl"
    path.write_bytes(b"\x80\x04\x8e" + (2**40).to_bytes(8, "little") + b"x.")
    refused(path, "cut off or damaged")
    path.write_bytes(b"\x80\x02}r\xff\xff\xff\x7f.")  # a memo index of 2³¹
    refused(path)
