"""What one thread costs against several: training steps of a ResNet-18, in turns within one process.

    PYTHONPATH=. python tests/benchmarks/bench_threads.py [--threads 2] [--pairs 5]

Seconds on the wall are those of a user and mean something on a quiet machine alone; seconds of the processor hold on
any. Ratios are medians over pairs.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
import torchvision

from transfer.runtime.conditions import settle


def step(network: torch.nn.Module, images: torch.Tensor) -> tuple[float, float]:
    """(wall, processor) seconds of a forward and backward pass."""
    wall, processor = time.perf_counter(), time.process_time()
    network.zero_grad()
    network(images).square().mean().backward()
    return time.perf_counter() - wall, time.process_time() - processor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=5)
    given = parser.parse_args()
    network = torchvision.models.resnet18()
    for count, height, width in ((2, 256, 320), (32, 64, 64)):  # as in detection, as in classification
        batch = torch.zeros(count, 3, height, width).uniform_()
        walls, processors = [], []
        for _ in range(given.pairs):
            pair = []
            for threads in (1, given.threads):
                settle("cpu", threads)
                step(network, batch)  # threads are made, memory is taken
                pair.append(step(network, batch))
            walls.append(pair[0][0] / pair[1][0])
            processors.append(pair[0][1] / pair[1][1])
        print(f"{count} images of {height} × {width}, 1 thread against {given.threads}:")
        print(
            f"    {statistics.median(walls):.2f} × the time, {statistics.median(processors):.2f} × the processor's time"
        )


if __name__ == "__main__":
    main()
