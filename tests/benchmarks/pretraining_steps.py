"""One training step of this project, of lightly and of solo-learn, on the same tensors: used by bench_pretraining.py.

Started as a program it is one contestant in a process of its own, in whichever environment has the package:

    python pretraining_steps.py '{"who": "lightly", "arch": "resnet18", "crop": 64, "batch": 64}'

It prints a line about itself, then answers each line `run N` on its input with the time of N steps, and `peak` with
its peak memory. So only one contestant works at a time, and the imports of one are no burden on another.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from turns import measured

ROOT = Path(__file__).resolve().parents[2]
HIDDEN, DIMENSIONS = 4096, 256
LR, MOMENTUM, DECAY, EMA = 0.005, 0.9, 1e-6, 0.99
TOTAL = 100_000  # steps of the imagined training, for the cosine of the slow copy's decay


@dataclass(frozen=True)
class Setup:
    """What is measured.

    Attributes:
        who: ours, bare, lightly, lightly-nhwc or solo; see `BUILDERS`.
        method: of this project.
        arch: resnet18 or resnet50.
        crop, batch, views: sizes; every contestant sees the same number of equally large float tensors.
        precision: fp32 or bf16 (autocast).
        accumulate: parts of a batch (ours only).
        singular, brownian: weights of the two forces (ours only).
        threads: of PyTorch.
    """

    who: str = "ours"
    method: str = "byol"
    arch: str = "resnet18"
    crop: int = 64
    batch: int = 64
    views: int = 2
    precision: str = "fp32"
    device: str = "cpu"
    accumulate: int = 1
    singular: float = 0.0
    brownian: float = 0.0
    threads: int = 1

    def autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device, torch.bfloat16, enabled=self.precision == "bf16")

    def images(self, memory_format: torch.memory_format) -> list[Tensor]:
        torch.manual_seed(1)
        shape = (self.batch, 3, self.crop, self.crop)
        return [torch.randn(shape).to(self.device).contiguous(memory_format=memory_format) for _ in range(self.views)]

    def encoder(self) -> tuple[nn.Module, int]:
        """The peers' ResNet; bottleneck branches start at zero as ours do."""
        encoder = torchvision.models.get_model(self.arch, zero_init_residual=self.arch == "resnet50")
        features = encoder.fc.in_features
        encoder.fc = nn.Identity()
        return encoder, features


@dataclass
class Contestant:
    """A step that can be repeated, giving its loss, and the parameters that it trains."""

    step: Callable[[], Tensor]
    trained: int
    package: str

    def run(self, steps: int, device: str = "cpu") -> tuple[float, float]:
        """(wall seconds, processor seconds) of a step, the mean of `steps` after one that is not counted."""
        losses = [self.step()]
        found = measured(lambda: losses.extend(self.step() for _ in range(steps)), steps, device)
        # Not in the step: asking would make a GPU wait. Ours leaves out the second half where the loss is not finite.
        if not bool(torch.stack(losses).isfinite().all()):
            raise SystemExit("a loss is not finite: lower the learning rate")
        if device == "cuda":
            torch.cuda.empty_cache()  # the next contestant needs the room
        return found


def _trained(parameters: Any) -> int:
    return sum(parameter.numel() for parameter in parameters if parameter.requires_grad)


def our_method(setup: Setup) -> tuple[Any, Any]:
    """(method, recipe), prepared as the training loop prepares them."""
    from pretrain.forces import Forces
    from pretrain.machine import prepare
    from pretrain.methods import find_method
    from pretrain.recipe import Recipe

    prepare(torch.device(setup.device))
    module = find_method(setup.method)
    recipe = Recipe(
        arch=setup.arch,  # type: ignore[arg-type]
        crop=setup.crop,
        batch=setup.batch,
        accumulate=setup.accumulate,
        optimizer="sgd",
        lr=LR * 256 / setup.batch,
        momentum=MOMENTUM,
        weight_decay=DECAY,
        precision=setup.precision,  # type: ignore[arg-type]
    )
    forces = Forces(singular=setup.singular, brownian=setup.brownian)
    settings = replace(
        module.Settings(), views=setup.views, forces=forces, hidden=HIDDEN, dimensions=DIMENSIONS, ema=EMA
    )
    torch.manual_seed(0)
    method = module.build(recipe.network(), settings)
    method.to(device=torch.device(setup.device), memory_format=torch.channels_last).train()
    return method, recipe


def build_ours(setup: Setup) -> Contestant:
    """`pretrain.step.Step`: the whole step of the training loop, without reading and augmenting."""
    method, recipe = our_method(setup)
    from pretrain.optimizers import build_optimizer
    from pretrain.step import Step

    step = Step(method, build_optimizer(recipe, method), recipe, torch.device(setup.device))
    size = setup.batch // setup.accumulate
    whole = setup.images(torch.channels_last)
    parts = [[view[i * size : (i + 1) * size] for view in whole] for i in range(setup.accumulate)]
    labels = torch.zeros(setup.batch, dtype=torch.long, device=setup.device)
    generator = torch.Generator(setup.device)
    number = 0

    def once() -> Tensor:
        nonlocal number
        generator.manual_seed(number)
        outcome = step(parts, labels, number, number / TOTAL, generator)
        number += 1
        return outcome.loss

    return Contestant(once, _trained(method.parameters()), setup.method)


def build_bare(setup: Setup) -> Contestant:
    """Forward and backward of the same networks, and nothing else.

    Online forward of all views, mean square as the loss, backward; target forward of all views without gradient. No
    loss of the method, no optimiser, no slow copy, no joining of parts, no check for finite numbers.
    """
    method, _ = our_method(setup)
    views = setup.images(torch.channels_last)

    def once() -> Tensor:
        method.zero_grad(set_to_none=True)
        with setup.autocast():
            embeddings = [method.online(view) for view in views]
            with torch.no_grad():
                for view in views:
                    method.target(view)
        loss = torch.stack([z.float().square().mean() for z in embeddings]).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    return Contestant(once, _trained(method.parameters()), "bare")


def build_lightly(setup: Setup, memory_format: torch.memory_format = torch.contiguous_format) -> Contestant:
    """lightly's example of BYOL (examples/pytorch/byol.py): its heads, loss and momentum update in its order."""
    from lightly.loss import NegativeCosineSimilarity
    from lightly.models.modules import BYOLPredictionHead, BYOLProjectionHead
    from lightly.models.utils import deactivate_requires_grad, update_momentum
    from lightly.utils.scheduler import cosine_schedule

    torch.manual_seed(0)
    encoder, features = setup.encoder()
    online = nn.ModuleList([encoder, BYOLProjectionHead(features, HIDDEN, DIMENSIONS)])
    predict = BYOLPredictionHead(DIMENSIONS, HIDDEN, DIMENSIONS)
    slow_encoder, _ = setup.encoder()
    slow = nn.ModuleList([slow_encoder, BYOLProjectionHead(features, HIDDEN, DIMENSIONS)])
    slow.load_state_dict(online.state_dict())
    deactivate_requires_grad(slow)
    model = nn.ModuleList([online, predict, slow]).to(setup.device, memory_format=memory_format)  # type: ignore[call-overload]
    model.train()
    criterion = NegativeCosineSimilarity()
    optimizer = torch.optim.SGD([*online.parameters(), *predict.parameters()], LR, MOMENTUM, weight_decay=DECAY)
    x0, x1 = setup.images(memory_format)
    number = 0

    def once() -> Tensor:
        nonlocal number
        decay = cosine_schedule(number, TOTAL, EMA, 1)
        for fast, follower in zip(online, slow, strict=True):
            update_momentum(fast, follower, m=decay)
        with setup.autocast():
            p0 = predict(online[1](online[0](x0).flatten(start_dim=1)))
            z0 = slow[1](slow[0](x0).flatten(start_dim=1)).detach()
            p1 = predict(online[1](online[0](x1).flatten(start_dim=1)))
            z1 = slow[1](slow[0](x1).flatten(start_dim=1)).detach()
            loss = 0.5 * (criterion(p0, z1) + criterion(p1, z0))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        number += 1
        detached: Tensor = loss.detach()
        return detached

    return Contestant(once, _trained(model.parameters()), f"lightly {version('lightly')}")


def build_solo(setup: Setup) -> Contestant:
    """solo-learn's BYOL: its own `training_step`, optimiser and momentum updater.

    Without Lightning's trainer, logging or scheduler, whose time is not counted; its online linear classifier belongs
    to the step. channels_last is its default.
    """
    from omegaconf import OmegaConf
    from solo.methods.byol import BYOL

    heads = {"proj_hidden_dim": HIDDEN, "proj_output_dim": DIMENSIONS, "pred_hidden_dim": HIDDEN}
    config = {
        "method": "byol",
        "backbone": {"name": setup.arch, "kwargs": {"zero_init_residual": setup.arch == "resnet50"}},
        "method_kwargs": heads,
        "data": {"dataset": "imagenet100", "num_classes": 100, "num_large_crops": 2, "num_small_crops": 0},
        "optimizer": {
            "name": "sgd",
            "batch_size": setup.batch,
            "lr": LR,
            "classifier_lr": LR,
            "weight_decay": DECAY,
            "kwargs": {"momentum": MOMENTUM},
            "exclude_bias_n_norm_wd": True,
        },
        "scheduler": {"name": "none"},
        "momentum": {"base_tau": EMA, "final_tau": 1.0},
        "max_epochs": 100,
    }
    torch.manual_seed(0)
    model = BYOL(OmegaConf.create(config)).to(setup.device, memory_format=torch.channels_last).train()
    model.log_dict = lambda *_, **__: None
    optimizer = model.configure_optimizers()
    batch = [None, setup.images(torch.channels_last), torch.zeros(setup.batch, dtype=torch.long, device=setup.device)]
    number = 0

    def once() -> Tensor:
        nonlocal number
        optimizer.zero_grad(set_to_none=True)
        with setup.autocast():
            loss = model.training_step(batch, number)
        loss.backward()
        optimizer.step()
        for pair in model.momentum_pairs:
            model.momentum_updater.update(*pair)
        number += 1
        model.momentum_updater.update_tau(number, TOTAL)
        detached: Tensor = loss.detach()
        return detached

    return Contestant(once, _trained(model.parameters()), f"solo-learn {version('solo-learn')}")


BUILDERS: dict[str, Callable[[Setup], Contestant]] = {
    "ours": build_ours,
    "bare": build_bare,
    "lightly": build_lightly,
    # not what its example does, but what it can do: the layout that ours and solo-learn use
    "lightly-nhwc": lambda setup: build_lightly(setup, torch.channels_last),
    "solo": build_solo,
}
PACKAGES = {
    "ours": ("pretrain.step", "pretrain.optimizers", "pretrain.methods.msbreg"),
    "bare": ("pretrain.step", "pretrain.optimizers", "pretrain.methods.msbreg"),
    "lightly": ("lightly.loss", "lightly.models.modules"),
    "solo": ("omegaconf", "solo.methods.byol"),
}


def peak(device: str) -> float:
    """Peak memory of this process in MiB: allocated on a GPU, otherwise resident."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    # not getrusage: its maximum is inherited from the process that started this one
    found = re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text(encoding="utf-8"))
    if found is None:
        raise SystemExit("/proc/self/status has no VmHWM: peak memory can be read on Linux only")
    return int(found[1]) / 1024


def main() -> None:
    setup = Setup(**json.loads(sys.argv[1]))
    torch.set_num_threads(setup.threads)
    if setup.who in ("ours", "bare"):
        sys.path.insert(0, str(ROOT))
    for name in PACKAGES[setup.who.split("-")[0]]:
        import_module(name)  # what a package takes by itself is not the step's memory
    before = 0.0 if setup.device == "cuda" else peak(setup.device)
    contestant = BUILDERS[setup.who](setup)
    about = {"trained": contestant.trained, "package": contestant.package, "torch": torch.__version__}
    print(json.dumps({**about, "setup": asdict(setup)}), flush=True)
    for line in sys.stdin:
        if line.startswith("run "):
            print(json.dumps(contestant.run(int(line.split()[1]), setup.device)), flush=True)
        elif line.strip() == "peak":
            print(json.dumps([peak(setup.device) - before, before]), flush=True)


if __name__ == "__main__":
    main()
