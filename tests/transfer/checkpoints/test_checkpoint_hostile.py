"""Files made to harm their reader: nothing in one is ever run, and none brings the reader down."""

from __future__ import annotations

import collections
import gzip
import io
import os
import pickle
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import checkpoint_files as files
import numpy as np
import pytest
import torch
from checkpoint_files import refused, with_changes, zipped

from transfer.checkpoints.inspect import examine
from transfer.checkpoints.read import read_backbone
from transfer.checkpoints.write import convert
from transfer.runtime.errors import CheckpointError

torch.set_num_threads(1)
CHEAP = files.cheap_state("resnet18")
BACKBONE = files.without_fc(CHEAP)


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
            examine(path)


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
    from transfer.checkpoints.unpickle import NUMPY, PLAIN

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


@pytest.mark.slow
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
    refused(tmp_path / "items.pkl", "is an empty dict")


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
    from transfer.checkpoints.formats.mmdet_detector import _config

    said = _config({"cfg": "mean=[1.2.3, 2, 3], std=[1,,2], bgr_to_rgb=True"})
    assert [lint.code for lint in said[2]] == ["assumed-input", "assumed-stride"]


def test_negative_variances_are_refused(tmp_path):
    refused(with_changes(tmp_path, **{"bn1.running_var": torch.full((64,), -0.5)}), "bn1.running_var", "negative")


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_names_cannot_write_to_the_terminal_or_break_it(encoding, tmp_path):
    torch.save({**BACKBONE, "\x1b[31mred\ud800": torch.zeros(2)}, tmp_path / "a.pth")
    answer = subprocess.run(
        [sys.executable, "-m", "transfer", "inspect", tmp_path / "a.pth"],
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONIOENCODING": encoding},
    )
    assert answer.returncode == 1, answer.stderr  # a tensor more than a backbone has
    assert b"\x1b" not in answer.stdout
    assert b"\\x1b[31mred\\ud800" in answer.stdout


@pytest.mark.slow
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
