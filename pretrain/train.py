"""The training loop: any method of `pretrain.methods` on a folder of images, on a CPU or one GPU."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from pretrain import checkpoint, data
from pretrain.curves import Curves
from pretrain.health import collapse_warning, health
from pretrain.methods import Method, find_method
from pretrain.optimizers import build_optimizer
from pretrain.recipe import Recipe
from pretrain.views import Views, to_network
from transfer.errors import TrainingError, UserError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Machine:
    """How this machine does it; nothing here moves a number beyond rounding.

    Attributes:
        device: cpu, cuda, or auto: the GPU where there is one.
        workers: processes that decode and augment; 0: the training process does it.
        log_every: steps between lines of metrics.jsonl.
        save_every: steps between checkpoints; there is always one at the end.
    """

    device: str = "auto"
    workers: int = 8
    log_every: int = 20
    save_every: int = 500

    def check(self) -> None:
        """Refuse what no loop can do.

        Raises:
            UserError: a number is out of range.
        """
        for name, lowest in (("workers", 0), ("log_every", 1), ("save_every", 1)):
            if getattr(self, name) < lowest:
                option = "--" + name.replace("_", "-")
                raise UserError(f"{option} is {getattr(self, name)}", todo=f"give {option} {lowest} or more")

    def torch_device(self) -> torch.device:
        """The device.

        Raises:
            UserError: a GPU is asked for and there is none.
        """
        available = torch.cuda.is_available()
        if self.device == "auto":
            return torch.device("cuda" if available else "cpu")
        if self.device.startswith("cuda") and not available:
            raise UserError("--device cuda, but PyTorch sees no GPU", todo="use --device cpu")
        try:
            return torch.device(self.device)
        except RuntimeError as error:
            raise UserError(f"unknown device {self.device!r}", todo="use --device cpu or --device cuda") from error


def pretrain(
    root: Path,
    out: Path,
    method_name: str,
    recipe: Recipe,
    settings: Any,
    machine: Machine | None = None,
    overwrite: bool = False,
) -> Path:
    """Train on the images under `root` and return the checkpoint, `out`/checkpoint.pth.

    What is found there is resumed, a finished run is not done again, unless `overwrite` starts anew.
    `method_name` is a file of `pretrain.methods`, to which `settings` belongs.

    Raises:
        UserError: bad input, or a loss that is not finite; the last good checkpoint is kept.
    """
    machine = machine or Machine()
    machine.check()
    device = machine.torch_device()
    if recipe.precision == "bf16" and device.type != "cuda":
        raise UserError("--precision bf16 needs a GPU", todo="use --precision fp32: on CPUs bf16 is slower")
    images = data.list_images(root)
    recipe.check(len(images))
    torch.manual_seed(recipe.seed)
    method = find_method(method_name).build(recipe.arch, settings)
    config = {
        "method": method_name,
        "recipe": asdict(recipe),
        "settings": asdict(settings),
        "data": {"images": len(images), "sha256": data.fingerprint(root, images)},
    }
    path = out / checkpoint.FILE
    checkpoint.clear(path, everything=overwrite)
    found = checkpoint.load(path)
    if found is not None:
        _refuse_other_run(path, found["config"], config)
        if found["step"] == recipe.total_steps(len(images)):
            logger.info("%s is finished (%d steps); --overwrite trains it again", path, found["step"])
            return path
    method.to(device=device, memory_format=torch.channels_last).train()
    run = _Run(method, recipe, config, path, machine, device, len(images))
    if found is not None:
        run.resume(found)
    views = Views(settings.views, recipe.crop, recipe.augmentation)
    run.train(data.DrawnViews(root, images, views, recipe.seed))
    return path


def _refuse_other_run(path: Path, saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    lines = checkpoint.differences(saved, wanted)
    if lines:
        raise TrainingError(
            f"{path} belongs to a run with other settings",
            found="\n".join(lines),
            todo="repeat its settings to resume it, choose another --out, or replace it with --overwrite",
        )


class _Run:
    """One training: state and the loop around `_step`."""

    def __init__(
        self,
        method: Method,
        recipe: Recipe,
        config: dict[str, Any],
        path: Path,
        machine: Machine,
        device: torch.device,
        images: int,
    ) -> None:
        self.method, self.recipe, self.config, self.path = method, recipe, config, path
        self.machine, self.device, self.images = machine, device, images
        self.optimizer = build_optimizer(recipe, method.branches["online"])
        self.generator = torch.Generator(device)
        self.done, self.saved, self.total = 0, 0, recipe.total_steps(images)

    def resume(self, state: Mapping[str, Any]) -> None:
        """Continue where a checkpoint ends."""
        checkpoint.restore(state, self.method, self.optimizer)
        self.done = self.saved = state["step"]
        logger.info("resuming %s at step %d of %d", self.path, self.done, self.total)

    def train(self, dataset: data.DrawnViews) -> None:
        """All remaining steps."""
        machine, recipe = self.machine, self.recipe
        curves = Curves(self.path.parent / "metrics.jsonl", self.done, self.total, machine.log_every, recipe.batch)
        sampler = data.EndlessShuffle(self.images, recipe.batch, recipe.seed, self.done, self.total)
        stream = data.batches(dataset, sampler, machine.workers, self.device.type == "cuda")
        warned = False
        asked = time.perf_counter()
        for batch in stream:
            curves.waited(time.perf_counter() - asked)
            row, embeddings = self._step(batch)
            curves.step(row["loss"])
            if curves.due(self.done):
                signs = health(embeddings)
                curves.write(self.done, {"epoch": self.done / (self.images // recipe.batch), **row, **signs})
                warning = collapse_warning(signs)
                if warning and not warned:
                    logger.warning("step %d: %s", self.done, warning)
                warned = bool(warning)
            if self.done % machine.save_every == 0 or self.done == self.total:
                self._save()
            asked = time.perf_counter()
        curves.close()

    def _step(self, batch: Tensor) -> tuple[dict[str, float], Tensor]:
        """One optimiser step; returns what is logged and one view's embeddings [n, d]."""
        lr = self.recipe.lr_at(self.done, self.images)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        # Seeded by the step, so that a resumed run draws the directions of the uninterrupted one.
        seeds = np.random.SeedSequence([self.recipe.seed, 0xB20, self.done]).generate_state(1, np.uint64)
        self.generator.manual_seed(int(seeds[0]))
        views = to_network(batch, self.device, torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.precision == "bf16"):
            outputs = self.method(views)
        loss, terms = self.method.loss(outputs, self.generator)
        row = {"loss": loss.item(), **{name: term.item() for name, term in terms.items()}}
        if not math.isfinite(row["loss"]):
            self._stop(f"the loss is {row['loss']} at step {self.done + 1}", row)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        logged = self.method.after_step(self.done / self.total)
        self.done += 1
        return {**row, "lr": lr, **logged}, outputs[0][0].detach()

    def _stop(self, what: str, row: Mapping[str, float]) -> NoReturn:
        kept = f"the checkpoint of step {self.saved} is kept" if self.saved else "no checkpoint was written yet"
        raise TrainingError(
            what,
            found=", ".join(f"{name} {value:.4g}" for name, value in row.items()),
            todo=f"lower the learning rate (--lr) or lengthen the warm-up; {kept}",
        )

    def _save(self) -> None:
        # A finite loss can still have had a gradient that is not; such weights must not replace good ones.
        if not all(bool(parameter.isfinite().all()) for parameter in self.method.parameters()):
            self._stop(f"weights are no longer finite after step {self.done}", {})
        epoch = self.done // (self.images // self.recipe.batch)
        progress = {"step": self.done, "steps": self.total, "epoch": epoch}
        checkpoint.save(self.path, self.method, self.optimizer, self.config, progress)
        self.saved = self.done
