"""How long commands take to say something, beside `import torch`, and beside another checkout of this project.

    python tests/benchmarks/bench_startup.py [--before OTHER_CHECKOUT] [--rounds 5]

In every round each command runs once, after it the same in the other checkout, and `python -c "import torch"` once.
Every run is a process of its own; shown are medians of seconds, and of each round's ratios.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = {
    "transfer --help": ["-m", "transfer", "--help"],
    "transfer tasks": ["-m", "transfer", "tasks"],
    "transfer run … --help": ["-m", "transfer", "run", "detection.voc", "--help"],
    "results table": ["-m", "results", "table", "--records", "results/records"],
    "pretrain --help": ["-m", "pretrain", "--help"],
    "transfer inspect FILE": ["-m", "transfer", "inspect", "FILE"],
}


def seconds(words: list[str], folder: Path) -> float:
    """Of one process, started in `folder`."""
    began = time.perf_counter()
    subprocess.run([sys.executable, *words], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="another checkout, to compare with")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "resnet50.pth"
        write = "import sys, torch, torchvision; torch.save(torchvision.models.resnet50().state_dict(), sys.argv[1])"
        subprocess.run([sys.executable, "-c", write, str(file)], check=True)
        commands = {name: [str(file) if word == "FILE" else word for word in words] for name, words in COMMANDS.items()}
        found: dict[str, list[float]] = {}
        for _ in range(options.rounds):
            found.setdefault("torch", []).append(seconds(["-c", "import torch"], ROOT))
            for name, words in commands.items():
                found.setdefault(name, []).append(seconds(words, ROOT))
                if options.before:
                    found.setdefault(f"{name} before", []).append(seconds(words, options.before))
    print(f"import torch: {statistics.median(found['torch']):.2f} s (median of {options.rounds})")
    for name in commands:
        line = f"{name:<24}{statistics.median(found[name]):6.2f} s  {ratio(found[name], found['torch']):5.2f} of torch"
        if options.before:
            before = found[f"{name} before"]
            line += f"   before: {statistics.median(before):6.2f} s  {ratio(before, found['torch']):5.2f} of torch"
        print(line)


def ratio(these: list[float], those: list[float]) -> float:
    """Median of the ratios round by round."""
    return statistics.median(a / b for a, b in zip(these, those, strict=True))


if __name__ == "__main__":
    main()
