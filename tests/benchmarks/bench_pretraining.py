"""Time and memory of a pretraining step, beside lightly's, solo-learn's and the bare networks.

    PYTHONPATH=. python tests/benchmarks/bench_pretraining.py --peers PEERS/bin/python [--arch resnet50 --batch 32]
    PYTHONPATH=. python tests/benchmarks/bench_pretraining.py --device cuda --batch 256 --crop 224 --peers …

PEERS is an environment of its own with the same PyTorch and torchvision, outside the project:

    python -m venv PEERS && PEERS/bin/pip install torch==… torchvision==… lightly einops torchmetrics timm scipy \\
        scikit-learn wandb hydra-core lightning==2.1.2 git+https://github.com/vturrisi/solo-learn

Without `--peers` that part is left out. All see the same number of equally large float tensors that lie ready on the
device: nothing is read or augmented (bench_views.py measures that). Networks, heads (4096-256), optimiser (SGD with
momentum 0.9), precision and number of threads are the same; the numbers of trained parameters are shown to prove it.

The contestants take turns, A B C C B A A B C …, so that what else the machine does meets all alike; every one is a
process of its own, and only one works at a time. A turn is one uncounted step and `--steps` counted ones. Ratios are
taken within a round and their median is shown, with the least and the greatest; on a CPU also that of processor time,
which other programs disturb less.

Parts (`--only` takes some):
    peers   a BYOL step, K = 2, beside lightly's as in its example, lightly's in channels_last, and solo-learn's
    forces  a step of MSBReg, K = 4, with and without its two dispersing forces; and their own time, forward and
            backward, as a share of the step
    bare    a step beside forward and backward of the same networks (`pretraining_steps.build_bare`), K = 2 and 4
    memory  peak of fresh processes with the batch whole and in four parts
"""

from __future__ import annotations

import argparse
import statistics
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from pretraining_steps import DIMENSIONS, Setup
from turns import Process, Times, Turn, measured, spread, take_turns

from pretrain.forces import Forces
from pretrain.losses import dispersion
from pretrain.presets import method_names

WORKER = Path(__file__).with_name("pretraining_steps.py")
SINGULAR, BROWNIAN = 0.004, 0.5
PARTS = ("peers", "forces", "bare", "memory")


def compare(
    title: str, pythons: dict[str, tuple[str, Setup]], options: argparse.Namespace, of: str = "ours"
) -> dict[str, Times]:
    """Let the contestants take turns and print a table: seconds, and their time over that of `of`."""
    print(f"\n{title}")
    with ExitStack() as stack:
        contestants = {
            name: stack.enter_context(Process(python, WORKER, setup)) for name, (python, setup) in pythons.items()
        }
        versions = {contestant.about["torch"] for contestant in contestants.values()}
        if len(versions) > 1:
            print(f"attention: not the same PyTorch: {', '.join(sorted(versions))}")
        times = take_turns({name: _turn(its, options.steps) for name, its in contestants.items()}, options.rounds)
        for name, contestant in contestants.items():
            mine, yard = times[name], times[of]
            images = contestant.setup.batch / mine.median()
            peak, _ = contestant.ask("peak")
            cpu = f", processor {spread(mine.processor, yard.processor)}" if options.device == "cpu" else ""
            print(
                f"  {name:<14}{mine.median():>9.4f} s {images:>8.1f} images/s   time over {of}: "
                f"{spread(mine.wall, yard.wall)}{cpu}; peak {peak:.0f} MiB; {contestant.about['trained']:,} trained, "
                f"{contestant.about['package']}",
                flush=True,
            )
    return times


def _turn(contestant: Process, steps: int) -> Turn:
    return lambda: tuple(contestant.ask(f"run {steps}"))


def setup_of(options: argparse.Namespace, precision: str, **changes: Any) -> Setup:
    plain = Setup(
        arch=options.arch,
        crop=options.crop,
        batch=options.batch,
        precision=precision,
        device=options.device,
        threads=options.threads,
        method=options.method,
    )
    return replace(plain, **changes)


def peers(options: argparse.Namespace, precision: str) -> None:
    started = {"ours": (sys.executable, setup_of(options, precision))}
    for who in options.who:
        started[who] = (options.peers, setup_of(options, precision, who=who))
    compare(f"BYOL step, K = 2, {precision}", started, options)


def forces(options: argparse.Namespace, precision: str) -> None:
    without = setup_of(options, precision, method="msbreg", views=4)
    started = {
        "without": (sys.executable, without),
        "with": (sys.executable, replace(without, singular=SINGULAR, brownian=BROWNIAN)),
    }
    times = compare(f"MSBReg step, K = 4, {precision}, the two forces", started, options, of="without")
    alone = seconds_of_forces(without, options)
    step = statistics.median(times["without"].processor if options.device == "cpu" else times["without"].wall)
    print(f"  the forces alone, forward and backward: {1000 * alone:.2f} ms, {100 * alone / step:.2f} % of the step")


def seconds_of_forces(setup: Setup, options: argparse.Namespace, repeats: int = 20) -> float:
    """Median seconds, of the processor on a CPU, of `dispersion` and its gradient on random unit vectors."""
    generator = torch.Generator(setup.device).manual_seed(0)
    z = torch.randn(setup.views, setup.batch, DIMENSIONS, device=setup.device, generator=generator)
    z = torch.nn.functional.normalize(z, dim=-1).requires_grad_()
    acting = Forces(singular=SINGULAR, brownian=BROWNIAN)

    def once() -> None:
        loss, _ = dispersion(acting, z, generator)
        torch.autograd.grad(loss, z)

    times = [measured(once, 1, options.device) for _ in range(repeats + 2)][2:]
    return statistics.median(processor if options.device == "cpu" else wall for wall, processor in times)


def bare(options: argparse.Namespace, precision: str) -> None:
    for views, method in ((2, options.method), (4, "msbreg")):
        whole = setup_of(options, precision, method=method, views=views)
        if method == "msbreg":
            whole = replace(whole, singular=SINGULAR, brownian=BROWNIAN)
        started = {
            "whole": (sys.executable, replace(whole, who="ours")),
            "bare": (sys.executable, replace(whole, who="bare")),
        }
        times = compare(f"{method} step beside its bare networks, K = {views}, {precision}", started, options, "bare")
        bare_, whole_ = times["bare"], times["whole"]
        print(f"  throughput of the step over the bare networks': {spread(bare_.wall, whole_.wall)}", end="")
        print(f", processor {spread(bare_.processor, whole_.processor)}" if options.device == "cpu" else "")


def memory(options: argparse.Namespace, precision: str) -> None:
    print(f"\npeak memory of a process beyond its imports, {precision}")
    for views, method in ((2, options.method), (4, "msbreg")):
        for accumulate in (1, 4):
            setup = setup_of(options, precision, method=method, views=views, accumulate=accumulate)
            if method == "msbreg":
                setup = replace(setup, singular=SINGULAR, brownian=BROWNIAN)
            with Process(sys.executable, WORKER, setup) as process:
                seconds, _ = process.ask("run 1")
                grown, before = process.ask("peak")
            print(
                f"  {method:<8} K = {views}, --accumulate {accumulate}: {grown:>8.0f} MiB "
                f"(imports {before:.0f} MiB), {seconds:.3f} s a step",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", help="Python of the environment with lightly and solo-learn")
    parser.add_argument("--who", nargs="+", default=["lightly", "lightly-nhwc", "solo"], help="which peers")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--arch", default="resnet18", choices=["resnet18", "resnet50"])
    parser.add_argument("--crop", type=int, default=64)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--precision", nargs="+", default=["fp32", "bf16"], choices=["fp32", "bf16"])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=1, help="counted steps in a turn")
    options = parser.parse_args()
    if "memory" in options.only and (options.batch % 4 or options.batch < 8):
        parser.error(
            f"--batch {options.batch} cannot be cut into four parts of two images: give a multiple of 4, 8 or more"
        )
    options.method = "byol" if "byol" in method_names() else "msbreg"
    torch.set_num_threads(options.threads)
    where = torch.cuda.get_device_name() if options.device == "cuda" else f"CPU, {options.threads} thread(s)"
    print(
        f"{options.arch}, batch {options.batch}, {options.crop} px, {where}, torch {torch.__version__}, "
        f"{options.rounds} rounds of {options.steps} step(s); K = 2 with --method {options.method}"
    )
    parts = {"peers": peers, "forces": forces, "bare": bare, "memory": memory}
    for name in options.only:
        if name == "peers" and options.peers is None:
            print("\npeers left out: --peers PYTHON is not given")
            continue
        for precision in options.precision:
            parts[name](options, precision)


if __name__ == "__main__":
    main()
