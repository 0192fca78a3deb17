"""Time and memory of `inspect` and `convert`, beside what PyTorch itself needs to read the same file.

    PYTHONPATH=. python tests/benchmarks/bench_checkpoints.py [--arch resnet50] [--pairs 5]

Every measurement is a process of its own. "beyond start" leaves out what starting Python and importing this project
(torch, tyro) takes; the yardstick is `torch.load(weights_only=True)` of the file, or `pickle.load` of a pickle, in a
process that has imported torch. Memory is the growth of the peak resident size over that at the start, in units of the
file's size. The two of a pair run one after the other; medians of pairs are shown. The file is a training checkpoint
as MoCo v2 writes it (both encoders, queue, momentum of the optimiser) or a bare backbone.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "transfer" / "checkpoints")]

import checkpoint_files as files  # noqa: E402 - found by the line above
import torch  # noqa: E402
from releases import all_releases, moco  # noqa: E402

from transfer.checkpoints.write import TARGETS  # noqa: E402

COMMON = """
import re, sys, time
# not getrusage: its maximum is inherited from the process that started this one
peak = lambda: 1024 * int(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1])
path, job, out = sys.argv[1:]
{imports}
before, began = peak(), time.perf_counter()
{work}
print(time.perf_counter() - began, peak() - before)
"""
OURS = COMMON.format(
    imports="\n".join(
        (
            "import torch, tyro",
            "torch.set_num_threads(1)  # as the command line does",
            "from transfer.checkpoints.write import convert",
            "from transfer.checkpoints.inspect import examine",
        )
    ),
    work="examine(path) if job == 'inspect' else convert(path, job, out)",
)
YARDSTICK = COMMON.format(
    imports="import pickle, torch",
    work="pickle.load(open(path, 'rb')) if job == 'pkl' else torch.load(path, map_location='cpu', weights_only=True)",
)


def measured(code: str, *arguments: str) -> tuple[float, float]:
    """(seconds, bytes) that the code reports of itself."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, check=True, capture_output=True, text=True
    )
    seconds, grown = done.stdout.split()[-2:]
    return float(seconds), float(grown)


def make_files(arch: str, folder: Path) -> dict[str, Path]:
    state = files.real_state(arch)
    training = moco.build(state, 2)
    # `filled` and `slow_copy` tensors take no room: give them some
    weights = {name: tensor.clone() for name, tensor in training["state_dict"].items()}
    momentum = {index: {"momentum_buffer": tensor.clone()} for index, tensor in enumerate(state.values())}
    training |= {"state_dict": weights, "optimizer": {"state": momentum, "param_groups": []}}
    pickled = all_releases()["detectron2"].build(state)
    return {
        "backbone, zip": files.write(files.without_fc(state), folder / "bare.pth", "zip"),
        "backbone, pickle": files.write(pickled, folder / "bare.pkl", "pickle"),
        "MoCo v2 training, zip": files.write(training, folder / "moco.pth.tar", "zip"),
        "MoCo v2 training, legacy": files.write(training, folder / "moco_legacy.pth.tar", "legacy"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="resnet50")
    parser.add_argument("--pairs", type=int, default=5)
    options = parser.parse_args()
    print(f"{options.arch}, torch {torch.__version__}, medians of {options.pairs} pairs")
    print(f"{'file':<26}{'MiB':>6}  {'job':<13}{'seconds':>8}{'ratio':>7}{'memory':>8}   (yardstick: s, memory)")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for title, path in make_files(options.arch, folder).items():
            size = path.stat().st_size
            for job in ("inspect", *TARGETS):
                rows = []
                for _ in range(options.pairs):
                    out = folder / f"out{TARGETS[job].suffix if job in TARGETS else '.pth'}"
                    rows.append(
                        (
                            *measured(OURS, str(path), job, str(out)),
                            *measured(YARDSTICK, str(path), path.suffix.lstrip("."), ""),
                        )
                    )
                    out.unlink(missing_ok=True)
                ours, grown, theirs, loaded = (statistics.median(column) for column in zip(*rows, strict=True))
                ratio = statistics.median(row[0] / row[2] for row in rows)
                print(
                    f"{title:<26}{size / 2**20:>6.0f}  {job:<13}{ours:>8.2f}{ratio:>6.1f}×{grown / size:>7.2f}×"
                    f"   ({theirs:.2f}, {loaded / size:.2f}×)",
                    flush=True,
                )


if __name__ == "__main__":
    main()
