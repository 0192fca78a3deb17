"""What is read into a Backbone: relatives that are refused, kinds of numbers, and what reading and converting cost."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys

import checkpoint_files as files
import pytest
import torch
import torchvision
from checkpoint_files import refused, with_changes
from releases import all_releases

from transfer.checkpoints.read import read_backbone
from transfer.checkpoints.write import TARGETS, WRITERS, convert
from transfer.runtime.errors import UserError

torch.set_num_threads(1)
CHEAP = files.cheap_state("resnet18")
BACKBONE = files.without_fc(CHEAP)


# relatives of the supported architectures


OF_RESNETS = [to for to, writers in WRITERS.items() if "resnet" in writers]


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
from transfer.checkpoints.write import TARGETS, convert
from transfer.checkpoints.inspect import examine
# not getrusage: its maximum is inherited from the process that started this one, the test runner
peak = lambda: 1024 * int(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1])
path, job = sys.argv[1:]
before = peak()
convert(path, job, Path(path).with_name("out" + TARGETS[job].suffix)) if job != "inspect" else examine(path)
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize("container", ["zip", "legacy", "safetensors", "pickle"])
@pytest.mark.parametrize("job", ["inspect", *OF_RESNETS])
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


@pytest.mark.parametrize("to", OF_RESNETS)
def test_a_full_disk_leaves_the_old_file(to, tmp_path, small_disk):
    name = f"out{TARGETS[to].suffix}"
    source = files.write(dict(BACKBONE), tmp_path / "in.pth", "zip")
    (tmp_path / name).write_bytes(b"old")
    with pytest.raises(UserError, match="cannot write"):
        convert(source, to, tmp_path / name)
    assert (tmp_path / name).read_bytes() == b"old"
    assert sorted(item.name for item in tmp_path.iterdir()) == ["in.pth", name]
