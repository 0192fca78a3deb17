"""What decides the last digits of a number beside its recipe, data and seed: fixed where that is cheap, told where not.

Rounding is no detail: a training amplifies it. One detector on 205 images, one seed, one code gave AP 36.1 with one
thread, 34.1 with two, 35.5 on another CPU (`results/repeat_noise.csv`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

from transfer.runtime.errors import UserError
from transfer.runtime.provenance import processor_name

if TYPE_CHECKING:
    import torch

# Sums are cut into as many parts as there are threads, so their number belongs to a run and not to a machine. It is one
# because one is there on every machine, and torchrun and the workers of a DataLoader take one. The price, by
# tests/benchmarks/bench_threads.py: 1.6 to 1.8 times the time of two threads on two quiet cores; on busy ones a third.
THREADS = 1
NOT_RECORDED = "its threads, instruction set and arithmetic were not recorded"
_LIBRARIES = (("MKL", r"Math Kernel Library Version (\S+)"), ("oneDNN", r"MKL-DNN v(\S+)"))


def _named(name: str) -> Any:
    return field(metadata={"name": name})


@dataclass(frozen=True)
class Conditions:
    """How a process computes. Package versions stand beside it in a record; recipe and seed are part of the run id.

    PyTorch's second kind of threads (interop) runs whole operations beside each other: it cuts no sum, so it is no
    condition. Neither are DataLoader workers: what they make depends on the seed and the number of the draw alone.

    Attributes:
        processor: model of the CPU, or of the GPU that computes.
        threads: of PyTorch within an operation on the CPU.
        instructions: the vector instructions that PyTorch's own kernels use on the CPU.
        arithmetic: digest of the outcome of fixed sums, products and convolutions on the CPU, forward and backward.
            Equal digests do not prove equal arithmetic; unequal ones prove other arithmetic, whatever its cause. Empty
            on a GPU, where the order of some sums is no fact but an accident.
        libraries: that compute: MKL, oneDNN, on GPUs cuDNN.
        matmul: PyTorch's precision of float32 matrix products.
        tf32: where a GPU rounds factors to TF32.
        cudnn: how cuDNN's algorithms are chosen.
        deterministic: whether PyTorch was told to use deterministic algorithms alone.
    """

    processor: str = _named("the processor")
    threads: int = _named("the number of CPU threads")
    instructions: str = _named("the CPU's instruction set")
    arithmetic: str = _named("the arithmetic (digest of fixed sums)")
    libraries: str = _named("the computing libraries")
    matmul: str = _named("the precision of matrix products")
    tf32: str = _named("the use of TF32")
    cudnn: str = _named("cuDNN's choice")
    deterministic: bool = _named("the demand for deterministic algorithms")

    def plain(self) -> dict[str, str | int | bool]:
        """For records and other files."""
        return dataclasses.asdict(self)

    def line(self) -> str:
        """One line for the log."""
        threads = f"{self.threads} thread{'' if self.threads == 1 else 's'}"
        cores = os.cpu_count() or 1
        if self.arithmetic and self.threads < cores:  # on a CPU
            threads += f" on {cores} cores (--threads is faster, and stands in the record: numbers move by rounding)"
        parts = (self.processor, threads, self.instructions, self.libraries, self.tf32, self.cudnn)
        return ", ".join(part for part in parts if part)


NAMES: Mapping[str, str] = {entry.name: entry.metadata["name"] for entry in dataclasses.fields(Conditions)}


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two `Conditions.plain()`: one clause each, "the number of CPU threads was 2 and is now 1".

    Nothing at all in `then` is said in one clause; a single value that it lacks was "not recorded".
    """
    if not then:
        return [NOT_RECORDED] if now else []
    missing = "not recorded"
    return [
        f"{NAMES.get(name, name)} was {then.get(name, missing)} and is now {now.get(name, missing)}"
        for name in (*NAMES, *sorted((then.keys() | now.keys()) - NAMES.keys()))
        if then.get(name, missing) != now.get(name, missing)
    ]


def settle(device: str | torch.device, threads: int = THREADS) -> Conditions:
    """Fix this process's threads, whatever its machine and OMP_NUM_THREADS say, and tell what it computes with.

    Raises:
        UserError: a number of threads that makes no sense.
    """
    import torch

    if threads < 1:
        raise UserError(f"--threads {threads}", todo=f"give 1 or more; {THREADS} is the default on every machine")
    torch.set_num_threads(threads)
    return observed(device)


def observed(device: str | torch.device) -> Conditions:
    """What this process computes with now."""
    import torch

    gpu = torch.device(device).type == "cuda"
    configuration = torch.__config__.show()
    found = [(name, re.search(pattern, configuration)) for name, pattern in _LIBRARIES]
    libraries = [f"{name} {match[1].split('-')[0]}" for name, match in found if match]
    if gpu:
        libraries.append(f"cuDNN {torch.backends.cudnn.version()}")  # type: ignore[no-untyped-call]
    return Conditions(
        processor=torch.cuda.get_device_name() if gpu else processor_name(),
        threads=torch.get_num_threads(),
        instructions=torch.backends.cpu.get_cpu_capability(),
        arithmetic="" if gpu else _arithmetic(torch.get_num_threads(), *_switches()),
        libraries=", ".join(libraries),
        matmul=torch.get_float32_matmul_precision(),
        tf32=_tf32() if gpu else "",
        cudnn=_cudnn() if gpu else "",
        deterministic=torch.are_deterministic_algorithms_enabled(),
    )


def _tf32() -> str:
    import torch

    kinds = {
        "convolutions": torch.backends.cudnn.allow_tf32,
        "matrix products": torch.backends.cuda.matmul.allow_tf32,
    }
    override = os.environ.get("NVIDIA_TF32_OVERRIDE")
    said = " and ".join(kind for kind, used in kinds.items() if used) or "nothing"
    return f"TF32 for {said}" + (f" (NVIDIA_TF32_OVERRIDE={override})" if override else "")


def _cudnn() -> str:
    import torch

    how = "algorithms by trial" if torch.backends.cudnn.benchmark else "algorithms by rule"
    return how + (", deterministic ones" if torch.backends.cudnn.deterministic else "")


def _switches() -> tuple[str, bool, bool]:
    import torch

    deterministic = torch.are_deterministic_algorithms_enabled()
    return torch.get_float32_matmul_precision(), deterministic, bool(torch.backends.mkldnn.enabled)


@cache
def _arithmetic(*_: str | int | bool) -> str:
    """Twelve characters of the sha256 over results in float32; takes 0.1 s, draws no random number.

    The arguments are all that can change it within a process.
    """
    import torch
    from torch.nn import functional

    def numbers(*shape: int) -> torch.Tensor:
        # In exact arithmetic: equal on every machine.
        count = torch.Size(shape).numel()
        whole = torch.arange(count, dtype=torch.int64) * 40_503 % 65_521
        return ((whole - 32_760).to(torch.float32) / 65_536).reshape(shape)

    with torch.inference_mode(False), torch.enable_grad(), torch.autocast("cpu", enabled=False):
        image = numbers(2, 3, 64, 64)
        weights = [numbers(64, 3, 7, 7), numbers(64, 64, 3, 3), numbers(128, 64, 1, 1), numbers(50, 128)]
        for weight in weights:
            weight.requires_grad_()
        maps = functional.conv2d(image, weights[0], stride=2, padding=3)
        maps = functional.batch_norm(maps, None, None, training=True).relu()
        maps = functional.conv2d(maps, weights[1], padding=1)
        maps = functional.conv2d(functional.batch_norm(maps, None, None, training=True), weights[2], stride=2)
        scores = functional.log_softmax(functional.linear(maps.flatten(2).transpose(1, 2), weights[3]), -1)
        total = numbers(1 << 17).exp().sum()
        results = [scores, total, *torch.autograd.grad(scores.square().mean(), weights)]
    digest = hashlib.sha256()
    for result in results:
        digest.update(result.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]
