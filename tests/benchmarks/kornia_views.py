"""kornia's batched colours for bench_views.py, as a process of the environment that has kornia."""

from __future__ import annotations

import json
import sys

import kornia
import kornia.augmentation as augmentation
import torch
from turns import measured
from view_setup import JITTER, ViewSetup


def main() -> None:
    setup = ViewSetup(**json.loads(sys.argv[1]))
    torch.set_num_threads(setup.threads)
    torch.manual_seed(0)
    colours = augmentation.AugmentationSequential(
        augmentation.ColorJitter(*JITTER, p=0.8),
        augmentation.RandomGrayscale(p=0.2),
        augmentation.RandomGaussianBlur((setup.kernel, setup.kernel), setup.sigma, p=0.5),
        augmentation.RandomSolarize((0.5, 0.5), (0.0, 0.0), p=0.1),
        data_keys=["input"],
    )
    views = torch.rand(setup.batch, 3, setup.side, setup.side, device=setup.device)
    print(json.dumps({"package": f"kornia {kornia.__version__}", "torch": torch.__version__}), flush=True)
    for _ in sys.stdin:
        print(json.dumps(measured(lambda: colours(views), setup.batch, setup.device)), flush=True)


if __name__ == "__main__":
    main()
