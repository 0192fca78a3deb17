"""Batch norm over two processes: against Detectron2's, and against one process where the shares are equal."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from transfer.runtime.batch_norm import NaiveSyncBatchNorm

ROOT = Path(__file__).parents[3]
CHANNELS = 3
SHAPES = {"equal": ((2, 4, 5), (2, 4, 5)), "unequal": ((1, 4, 5), (7, 2, 3))}  # images, height, width


def inputs(case: str, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What process `rank` normalises, and the gradient that comes back to it."""
    generator = torch.Generator().manual_seed(10 + rank)
    images, *size = SHAPES[case][rank]
    shape = (images, CHANNELS, *size)
    x = torch.randn(shape, generator=generator, dtype=torch.float64) * (1 + rank) + 3 * rank
    return x, torch.randn(shape, generator=generator, dtype=torch.float64)


def layer_of(kind: type) -> torch.nn.BatchNorm2d:
    layer = kind(CHANNELS).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([0.5, 1.0, 2.0]))
        layer.bias.copy_(torch.tensor([-1.0, 0.0, 1.0]))
    return layer.train()


def pushed(layer: torch.nn.BatchNorm2d, x: torch.Tensor, gradient: torch.Tensor) -> dict[str, torch.Tensor]:
    """Everything that comes out of one forward and backward pass."""
    x = x.clone().requires_grad_()
    out = layer(x)
    out.backward(gradient)
    found = {"out": out.detach(), "x": x.grad, "weight": layer.weight.grad, "bias": layer.bias.grad}
    return found | {"running_mean": layer.running_mean, "running_var": layer.running_var}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files that two processes have written: what `pushed` gives on each of them."""
    folder = tmp_path_factory.mktemp("processes")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    started = [subprocess.Popen([sys.executable, __file__, str(folder), str(rank)], env=environment) for rank in (0, 1)]
    try:
        assert [process.wait(timeout=500) for process in started] == [0, 0]
    finally:
        for process in started:
            process.kill()
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("case", SHAPES)
def test_it_computes_what_detectron2s_does(folder, case):
    pytest.importorskip("detectron2")
    for rank in (0, 1):
        found = torch.load(folder / f"{case}{rank}.pth")
        for name, value in found["theirs"].items():
            torch.testing.assert_close(found["ours"][name], value, rtol=1e-10, atol=1e-12)


@pytest.mark.slow
def test_with_equal_shares_it_is_batch_norm_of_all_images_together(folder):
    parts = [inputs("equal", rank) for rank in (0, 1)]
    whole = pushed(layer_of(torch.nn.BatchNorm2d), *(torch.cat(both) for both in zip(*parts, strict=True)))
    found = [torch.load(folder / f"equal{rank}.pth")["ours"] for rank in (0, 1)]
    for name in ("out", "x"):
        torch.testing.assert_close(torch.cat([one[name] for one in found]), whole[name])
    for name in ("weight", "bias"):
        torch.testing.assert_close(sum(one[name] for one in found), whole[name])
    images, height, width = SHAPES["equal"][0]
    count = 2 * images * height * width
    torch.testing.assert_close(found[0]["running_mean"], whole["running_mean"])
    # torch keeps the unbiased variance
    unbiased = 0.9 + (found[0]["running_var"] - 0.9) * count / (count - 1)
    torch.testing.assert_close(unbiased, whole["running_var"])


@pytest.mark.slow
def test_processes_weigh_the_same_however_many_positions_they_have(folder):
    x = [inputs("unequal", rank)[0] for rank in (0, 1)]
    mean = sum(one.mean((0, 2, 3)) for one in x) / 2
    for rank in (0, 1):
        found = torch.load(folder / f"unequal{rank}.pth")["ours"]
        torch.testing.assert_close(found["running_mean"], 0.1 * mean)


@pytest.mark.parametrize("training", [True, False])
def test_alone_and_in_eval_mode_it_is_plain_batch_norm(training):
    x, gradient = inputs("equal", 0)
    found, expected = (
        pushed(layer_of(kind).train(training), x, gradient) for kind in (NaiveSyncBatchNorm, torch.nn.BatchNorm2d)
    )
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def main() -> None:
    folder, rank = Path(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meet'}", rank=rank, world_size=2)
    kinds: dict[str, type] = {"ours": NaiveSyncBatchNorm}
    try:
        from detectron2.layers import NaiveSyncBatchNorm as Theirs

        kinds["theirs"] = Theirs
    except ImportError:
        pass
    for case in SHAPES:
        found = {name: pushed(layer_of(kind), *inputs(case, rank)) for name, kind in kinds.items()}
        torch.save(found, folder / f"{case}{rank}.pth")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
