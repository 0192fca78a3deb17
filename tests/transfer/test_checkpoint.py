"""Reading files: what is accepted, what is refused and in which words, and that nothing in a file is ever run."""

from __future__ import annotations

import argparse
import collections
import gzip
import io
import os
import pickle
import resource
import signal
import subprocess
import sys
import tarfile
import warnings
import zipfile
from pathlib import Path

import checkpoint_files as files
import numpy as np
import pytest
import torch
import torchvision
from releases import all_releases

import transfer.container
from transfer.checkpoint import read_backbone
from transfer.container import read_contents
from transfer.convert import TARGETS, convert, usual_suffix
from transfer.errors import CheckpointError, UserError
from transfer.inspect import describe

torch.set_num_threads(1)
CHEAP = files.cheap_state("resnet18")
BACKBONE = files.without_fc(CHEAP)


def refused(path: Path, *words: str, **options) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_backbone(path, **options)
    text = str(caught.value)
    for word in (path.name, *words):
        assert word in text, text
    return text


def with_changes(tmp_path: Path, **changed) -> Path:
    return files.write({**BACKBONE, **changed}, tmp_path / "changed.pth", "zip")


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


def zipped(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", "/"), content)
    return path


def test_one_checkpoint_in_a_zip_archive_is_read(tmp_path):
    # OBoW's feature extractor was released like this
    inner = files.write({"network": dict(CHEAP)}, tmp_path / "inner", "zip").read_bytes()
    path = zipped(tmp_path / "released.zip", folder__weights=inner, README=b"words about the weights")
    backbone = read_backbone(path)
    assert backbone.source.format == "obow"
    assert all(torch.equal(backbone.state[key], value) for key, value in BACKBONE.items())
    assert "in a zip archive" in describe(path)
    assert backbone.source.sha256 in describe(path)


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
    monkeypatch.setattr(transfer.container, "MAX_UNPACKED", 3 * 2**20)
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


# pickles with code in them


class Runs:
    """Creates a file when it is unpickled by a reader that runs pickles."""

    def __init__(self, call, *arguments) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


def packings(payload: object) -> dict[str, bytes]:
    def saved(value, zipped: bool) -> bytes:
        buffer = io.BytesIO()
        torch.save(value, buffer, _use_new_zipfile_serialization=zipped)
        return buffer.getvalue()

    nested = {**BACKBONE, "layer1.0.conv1.weight": payload}
    packed = {f"pickle protocol {p}": pickle.dumps({"model": payload}, protocol=p) for p in range(6)}
    packed |= {"bare pickle": pickle.dumps(payload, protocol=0), "zip": saved(payload, True)}
    packed |= {"nested in zip": saved(nested, True), "legacy": saved(payload, False), "nested": saved(nested, False)}
    packed["key"] = pickle.dumps({("a", payload): 1})
    return packed | {f"{name}, gzip'd": gzip.compress(data, mtime=0) for name, data in packed.items()}


@pytest.mark.parametrize(
    ("call", "arguments", "wanted"),
    [
        (os.system, ("touch {}",), "posix.system"),
        (subprocess.Popen, (["touch", "{}"],), ".Popen"),  # protocol 2 calls the module commands
        (eval, ("open('{}', 'w')",), "eval"),
        (exec, ("open('{}', 'w')",), "exec"),
        (open, ("{}", "w"), "open"),
        (torch.load, ("{}",), "torch.serialization.load"),
        (getattr, ("x", "upper"), "getattr"),
        (np.load, ("{}",), "numpy"),
    ],
)
def test_code_in_a_pickle_is_refused_by_name_and_never_run(call, arguments, wanted, tmp_path):
    trace = tmp_path / "it-ran"
    filled = tuple(
        [part.format(trace) for part in value]
        if isinstance(value, list)
        else str(value).format(trace)
        if isinstance(value, str)
        else value
        for value in arguments
    )
    for name, data in packings(Runs(call, *filled)).items():
        path = tmp_path / "evil.pth"
        path.write_bytes(data)
        text = refused(path)
        assert wanted in text, (name, text)
        assert "refused and not run" in text, (name, text)
        assert not trace.exists(), name
        with pytest.raises(CheckpointError):
            describe(path)


def test_the_trap_of_the_tests_works(tmp_path):
    # Otherwise the test above could pass because its pickles do nothing.
    pickle.loads(pickle.dumps(Runs(os.system, f"touch {tmp_path / 'it-ran'}")))
    assert (tmp_path / "it-ran").exists()


@pytest.mark.parametrize(
    "code",
    [
        b"cargparse\nNamespace\n)R.",  # settings are for torch files only
        b"ccollections\nOrderedDict\n}(U\x08__init__cposix\nsystem\nub.",
        b"cnumpy.core.multiarray\n_reconstruct\n}U\x08functionccollections\nOrderedDict\ns\x86b.",
        b"cnumpy.core.multiarray\n_reconstruct\nNN}U\x08functionNs\x86b.",
        b"cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R.",
        b"cnumpy\nndarray\n)\x81(K\x01K\x05\x85cnumpy\ndtype\nU\x02O8\x85R\x89U\x08AAAAAAAAtb.",
        b"\x82\x01.",  # extension registry
        b"P123\n.",  # persistent id
    ],
)
def test_handwritten_pickles_are_refused(code, tmp_path):
    path = tmp_path / "hand.pkl"
    path.write_bytes(b"\x80\x02}(U\x01x" + code[:-1] + b"u.")
    refused(path)


def test_pickles_cannot_change_the_readers_tables(tmp_path):
    from transfer.unpickle import NUMPY, PLAIN

    before = {name: repr(value) for name, value in (NUMPY | PLAIN).items()}
    for target in (b"cnumpy\nndarray\n", b"cnumpy.core.multiarray\nscalar\n", b"ccollections\nOrderedDict\n"):
        for state in (b"}U\x08functionK\x01s", b"N}U\x08functionK\x01s\x86"):
            path = tmp_path / "build.pkl"
            path.write_bytes(b"\x80\x02" + target + state + b"b.")
            refused(path)
    assert {name: repr(value) for name, value in (NUMPY | PLAIN).items()} == before
    assert not hasattr(collections.OrderedDict, "function")


def test_loops_and_depth_in_a_tree_are_survived(tmp_path):
    loop: dict = {"conv1.weight": np.zeros(3, np.float32)}
    loop["self"] = loop
    loop["list"] = [loop]
    deep: list = []
    for _ in range(5000):
        deep = [deep]
    (tmp_path / "loop.pkl").write_bytes(pickle.dumps(loop))
    refused(tmp_path / "loop.pkl", "none of the known")
    code = b"\x80\x02}(U\x06formatU\x11msbreg-checkpointU\x07versionK\x01U\x05input" + b"]" * 5000 + b"a" * 4999 + b"u."
    (tmp_path / "deep.pkl").write_bytes(code)
    refused(tmp_path / "deep.pkl")


def torch_zip(path: Path, code: bytes) -> Path:
    """A file as torch.save writes it, with these instructions in the place of its pickle."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (("data.pkl", b"\x80\x02" + code), ("version", b"3\n"), ("byteorder", b"little")):
            archive.writestr(f"archive/{name}", content)
    return path


DEEP = b"N" + b"\x85" * 200_000  # ((((…))))
REPEATED = b"NN\x86q\x00" + b"".join(b"h%ch%c\x86q%c" % (i, i, i + 1) for i in range(60))  # x = (x, x), sixty times
LISTS = b"]q\x00" + b"".join(b"](h%ch%ceq%c" % (i, i, i + 1) for i in range(60))


@pytest.mark.parametrize("container", ["zip", "legacy", "pickle"])
@pytest.mark.parametrize("tuples", [DEEP, REPEATED])
def test_tuples_that_exhaust_whoever_hashes_them_are_refused(tuples, container, tmp_path):
    # as the key of a dict; of the repeated ones, the last of sixty, which lie in a list before that
    code = b"}(" + DEEP + b"Nu." if tuples is DEEP else b"}](" + REPEATED + b"eN" + b"\x86h\x3cNs."
    path = tmp_path / "bomb.pth"
    if container == "zip":
        torch_zip(path, code)
    elif container == "pickle":
        path.write_bytes(b"\x80\x04" + code)
    else:
        buffer = io.BytesIO()
        torch.save({}, buffer, _use_new_zipfile_serialization=False)
        whole = buffer.getvalue()
        place = whole.rindex(b"\x80\x02}q")
        path.write_bytes(whole[:place] + b"\x80\x02" + code)
    answer = subprocess.run(  # a process of its own: it used to be killed by the operating system, or not to end
        [sys.executable, "-m", "transfer", "inspect", path], capture_output=True, text=True, check=False, timeout=60
    )
    assert answer.returncode == 2, answer.stderr
    assert "made to exhaust its reader" in answer.stderr


def test_lists_that_repeat_themselves_are_never_written_out(tmp_path):
    path = tmp_path / "lists.pkl"
    for use in (
        b"cnumpy\ndtype\nh<\x85R",
        b"cnumpy\nndarray\n)\x81(K\x01h<\x85cnumpy\ndtype\nU\x02f4\x85R\x89U\x01atb",
    ):
        path.write_bytes(b"\x80\x02(" + LISTS + b"1}(U\x01x" + use + b"u.")
        refused(path)


def test_a_name_of_a_million_characters_is_refused_at_once(tmp_path):
    path = torch_zip(tmp_path / "name.pth", b"cnumpy\n" + b"a" * 900_000 + b"\n.")
    refused(path, "a name of")


@pytest.mark.parametrize("container", ["zip", "legacy"])
def test_attributes_cannot_stand_in_for_methods(container, tmp_path):
    tree = collections.OrderedDict(CHEAP)
    tree.values = tree.get = set()  # type: ignore[assignment]
    tree._metadata = collections.OrderedDict()  # type: ignore[attr-defined]
    tree._metadata.get = 3  # type: ignore[attr-defined]
    weight = torch.nn.Parameter(CHEAP["conv1.weight"].clone())
    weight.detach = weight.is_floating_point = 3  # type: ignore[assignment]
    tree["conv1.weight"] = weight
    backbone = read_backbone(files.write({"state_dict": tree}, tmp_path / "a.pth", container))
    assert torch.equal(backbone.state["conv1.weight"], CHEAP["conv1.weight"])
    (tmp_path / "items.pkl").write_bytes(b"\x80\x02ccollections\nOrderedDict\n)R}U\x05itemsK\x01sb.")
    refused(tmp_path / "items.pkl", "none of the known")


def test_nested_tensors_are_named(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the interface of nested tensors may change
        nested = torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)])
    refused(with_changes(tmp_path, **{"conv1.weight": nested}), "conv1.weight", "nested")
    refused(with_changes(tmp_path, **{"fc.weight": nested}), "fc.weight", "nested")


@pytest.mark.parametrize("protocol", [4, 5])
def test_torch_files_of_a_later_pickle_protocol_are_not_called_damaged(protocol, tmp_path):
    path = tmp_path / "protocol.pth"
    torch.save(dict(BACKBONE), path, pickle_protocol=protocol)
    assert "damaged" not in refused(path, "pickle protocol", "save it again")


def test_messages_never_name_a_temporary_file(tmp_path):
    inner = zipped(tmp_path / "inner.zip", weights=b"x").read_bytes()
    (tmp_path / "packed.gz").write_bytes(gzip.compress(inner, mtime=0))
    assert "checkpoint." not in refused(tmp_path / "packed.gz", "zip archive")


@pytest.mark.parametrize(
    "changed",
    [
        {"mean": [10**400, 0, 0]},
        {"mean": [0, 0, float("nan")]},
        {"std": [1, 1, float("nan")]},
        {"std": [1e-320, 1, 1]},
        {"std": [1, 1, float("inf")]},
    ],
)
def test_a_normalisation_that_is_no_number_is_refused(changed, tmp_path):
    state = collections.OrderedDict(BACKBONE)
    spec = {"channels": "RGB", "value_range": 1, "mean": [0, 0, 0], "std": [1, 1, 1]} | changed
    state._metadata = {"transfer": {"input": spec, "stride_in_1x1": False, "same_padding": False}}  # type: ignore
    torch.save(state, tmp_path / "a.pth")
    refused(tmp_path / "a.pth")


def test_numbers_in_a_config_that_are_no_numbers_are_not_read():
    from transfer.formats.mmdet_detector import _config

    said = _config({"cfg": "mean=[1.2.3, 2, 3], std=[1,,2], bgr_to_rgb=True"})
    assert [lint.code for lint in said[2]] == ["assumed-input", "assumed-stride"]


def test_negative_variances_are_refused(tmp_path):
    refused(with_changes(tmp_path, **{"bn1.running_var": torch.full((64,), -0.5)}), "bn1.running_var", "negative")


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_names_cannot_write_to_the_terminal_or_break_it(encoding, tmp_path):
    torch.save({**BACKBONE, "\x1b[31mred\ud800": torch.zeros(2)}, tmp_path / "a.pth")
    answer = subprocess.run(
        [sys.executable, "-m", "transfer", "inspect", tmp_path / "a.pth"],
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONIOENCODING": encoding},
    )
    assert answer.returncode == 0, answer.stderr
    assert b"\x1b" not in answer.stdout
    assert b"\\x1b[31mred\\ud800" in answer.stdout


def test_a_reader_that_leaves_early_is_no_error(tmp_path):
    torch.save(dict(BACKBONE), tmp_path / "a.pth")
    reading, writing = os.pipe()
    os.close(reading)
    answer = subprocess.run(
        [sys.executable, "-m", "transfer", "inspect", tmp_path / "a.pth"],
        stdout=writing,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(writing)
    assert answer.stderr == b""


def test_nothing_but_a_file_is_written_over(tmp_path):
    torch.save(dict(BACKBONE), tmp_path / "a.pth")
    os.mkfifo(tmp_path / "pipe.pth")
    with pytest.raises(CheckpointError, match="a device or a pipe"):
        convert(tmp_path / "a.pth", "mmdet", tmp_path / "pipe.pth")
    assert (tmp_path / "pipe.pth").is_fifo()


# relatives of the supported architectures


def shaped(name: str) -> files.State:
    with torch.device("meta"):
        state = torchvision.models.get_model(name, weights=None).state_dict()
    return {key: torch.tensor(0.5, dtype=value.dtype).expand(value.shape) for key, value in state.items()}


def cifar_stem() -> files.State:
    return {**CHEAP, "conv1.weight": torch.tensor(0.5).expand(64, 3, 3, 3)}


def deep_stem() -> files.State:
    state = {name: tensor for name, tensor in CHEAP.items() if name != "conv1.weight"}
    return state | {f"conv1.{i}.weight": torch.tensor(0.5).expand(32, 32, 3, 3) for i in (0, 3, 6)}


def double_width() -> files.State:
    return {
        name: torch.tensor(0.5).expand([2 * n if n >= 64 else n for n in tensor.shape])
        for name, tensor in CHEAP.items()
    }


def no_statistics() -> files.State:
    return {name: t for name, t in CHEAP.items() if "running" not in name and "tracked" not in name}


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (cifar_stem, "CIFAR stem"),
        (deep_stem, "deep stem"),
        (double_width, "2× width"),
        (no_statistics, "group normalisation"),
        (lambda: shaped("resnext101_64x4d"), "ResNeXt-101"),
        (lambda: {**CHEAP, "conv1.weight": torch.tensor(0.5).expand(64, 1, 7, 7)}, "1 input channels"),
        (lambda: {**CHEAP, "layer1.0.se.fc1.weight": torch.zeros(1)}, "squeeze-and-excitation"),
    ],
)
def test_relatives_are_refused_by_name_with_what_is_supported(build, words, tmp_path):
    path = files.write({"state_dict": build()}, tmp_path / "relative.pth", "zip")
    refused(path, words, "resnet18, resnet34, resnet50, resnet101")


# values


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_needs_to_be_allowed_and_is_noted(dtype, tmp_path):
    half = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in BACKBONE.items()}
    path = files.write(half, tmp_path / "half.pth", "zip")
    refused(path, "half precision", "--allow-half")
    backbone = read_backbone(path, allow_half=True)
    assert any(str(dtype).removeprefix("torch.") in note and "widened" in note for note in backbone.notes)
    assert torch.equal(backbone.state["layer1.0.conv1.weight"], half["layer1.0.conv1.weight"].float())


def test_float64_is_narrowed_only_where_nothing_is_lost(tmp_path):
    exact = {name: t.double() if t.is_floating_point() else t for name, t in BACKBONE.items()}
    backbone = read_backbone(files.write(exact, tmp_path / "exact.pth", "zip"))
    assert any("float64" in note for note in backbone.notes)
    assert torch.equal(backbone.state["bn1.weight"], BACKBONE["bn1.weight"])
    exact["bn1.weight"] = torch.full((64,), 0.1, dtype=torch.float64)
    refused(files.write(exact, tmp_path / "inexact.pth", "zip"), "bn1.weight", "float64")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (torch.tensor([float("nan")] + [0.0] * 63), ("1 of 64 values", "NaN")),
        (torch.tensor([float("inf")] + [0.0] * 63).double(), ("1 of 64 values",)),
        (torch.zeros(64, dtype=torch.int8), ("int8",)),
        (torch.zeros(64, dtype=torch.bool), ("bool",)),
        (torch.zeros(64, dtype=torch.complex64), ("complex64",)),
        (torch.zeros(64).to_sparse(), ("sparse",)),
        (torch.zeros(64, device="meta"), ("without values",)),
        (torch.quantize_per_tensor(torch.zeros(64), 0.1, 0, torch.qint8), ("quantised",)),
        (torch.tensor(0.0), ("(64,)",)),
        (None, ("missing: bn1.weight",)),
    ],
)
def test_unusable_values_are_refused_by_name(value, words, tmp_path):
    refused(with_changes(tmp_path, **{"bn1.weight": value}), "bn1.weight", *words)


def test_views_parameters_and_shared_memory_become_tensors_of_their_own(tmp_path):
    shared = torch.arange(200.0)
    path = with_changes(
        tmp_path,
        **{
            "bn1.weight": shared[:64],
            "bn1.bias": shared[:64],
            "bn1.running_mean": shared[10:138:2],
            "bn1.running_var": torch.nn.Parameter(shared[1:65]),
            "conv1.weight": torch.rand(64, 3, 7, 7).to(memory_format=torch.channels_last),
        },
    )
    state = read_backbone(path).state
    assert torch.equal(state["bn1.running_mean"], torch.arange(10.0, 138, 2))
    pointers = [tensor.untyped_storage().data_ptr() for tensor in state.values()]
    assert len(set(pointers)) == len(pointers)
    for tensor in state.values():
        assert tensor.is_contiguous()
        assert not tensor.requires_grad
        assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()


def test_batch_counters_of_other_kinds_become_integers(tmp_path):
    # a moving average over all buffers leaves counters in floating point
    path = with_changes(tmp_path, **{"bn1.num_batches_tracked": torch.tensor(1000.0)})
    counter = read_backbone(path).state["bn1.num_batches_tracked"]
    assert (counter.dtype, int(counter)) == (torch.int64, 1000)


# cost


MEASURE = """
import re, sys
from pathlib import Path
from transfer.convert import convert, usual_suffix
from transfer.inspect import describe
# not getrusage: its maximum is inherited from the process that started this one, the test runner
peak = lambda: 1024 * int(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1])
path, job = sys.argv[1:]
before = peak()
convert(path, job, Path(path).with_name("out" + usual_suffix(job))) if job != "inspect" else describe(path)
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize("container", ["zip", "legacy", "safetensors", "pickle"])
@pytest.mark.parametrize("job", ["inspect", *TARGETS])
def test_a_resnet50_takes_less_than_twice_its_size_in_memory(container, job, tmp_path):
    state = files.real_state("resnet50")
    tree = all_releases()["detectron2"].build(state) if container == "pickle" else dict(state)
    path = files.write(tree, tmp_path / "r50.bin", container)
    done = subprocess.run([sys.executable, "-c", MEASURE, path, job], capture_output=True, text=True, check=True)
    assert path.stat().st_size / 2 < int(done.stdout) < 2 * path.stat().st_size


@pytest.fixture
def small_disk():
    """No file may grow beyond a megabyte; the kernel answers as for a full disk."""
    signalled = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    signal.signal(signal.SIGXFSZ, signalled)


@pytest.mark.parametrize("to", TARGETS)
def test_a_full_disk_leaves_the_old_file(to, tmp_path, small_disk):
    name = f"out{usual_suffix(to)}"
    source = files.write(dict(BACKBONE), tmp_path / "in.pth", "zip")
    (tmp_path / name).write_bytes(b"old")
    with pytest.raises(UserError, match="cannot write"):
        convert(source, to, tmp_path / name)
    assert (tmp_path / name).read_bytes() == b"old"
    assert sorted(item.name for item in tmp_path.iterdir()) == ["in.pth", name]
