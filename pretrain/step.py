"""One optimiser step, however the batch is cut: into processes, and these into parts that fit the memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from pretrain.methods import Method, Outputs
from pretrain.recipe import Recipe
from transfer.runtime.batch_norm import batch_norms, statistics_left
from transfer.runtime.world import World

Parts = Sequence[list[Tensor]]  # the views of each part of this process's share, normalised, on the device


@dataclass
class Outcome:
    """What a step leaves behind.

    Attributes:
        loss: scalar, of the whole batch.
        terms: its terms before weighting.
        outputs: of the whole batch, detached.
        logged: numbers that the method wants to be seen.
        seen: what `watch` returned.
    """

    loss: Tensor
    terms: dict[str, Tensor]
    outputs: Outputs
    logged: dict[str, float]
    seen: dict[str, Any] = field(default_factory=dict)


class Step:
    """Forward, loss of the whole batch, its gradient through every part, update.

    The loss is computed from the joined outputs of all parts, on every process alike; its gradient with respect to
    them is cut to the parts and sent through the networks, and the processes sum what arrives at the weights. So a
    loss that looks at the whole batch means the same however the batch is cut, and weights move as on one process
    (to rounding; BatchNorm without --sync-batchnorm and with --accumulate sees its own part only).

    With several parts each is run twice, as in Gao et al., "Scaling Deep Contrastive Learning Batch Size under Memory
    Limited Setup" (GradCache, 2021): first without a graph for its outputs, then again for its gradient.
    """

    def __init__(
        self,
        method: Method,
        optimizer: torch.optim.Optimizer,
        recipe: Recipe,
        device: torch.device,
        world: World | None = None,
    ) -> None:
        self.method, self.optimizer, self.recipe = method, optimizer, recipe
        self.device, self.world = device, world or World()
        self.scaler = torch.amp.grad_scaler.GradScaler(device.type, enabled=recipe.precision == "fp16")

    def __call__(
        self,
        parts: Parts,
        labels: Tensor | None,
        number: int,
        progress: float,
        generator: torch.Generator | None,
        watch: Callable[[Outputs, Tensor | None], dict[str, Any]] | None = None,
    ) -> Outcome:
        """Step `number` (0, 1, …).

        Args:
            parts: for each part its views, each [n / processes / parts, 3, H, W].
            labels: [n / processes] of this process's images, in the order of the parts.
            number: counted over the training.
            progress: share of the training done before this step.
            generator: of the Brownian directions, in the same state on every process.
            watch: looks at the whole batch's outputs and labels before the update, while the method is as it was
                when the loss was computed.
        """
        self.optimizer.zero_grad(set_to_none=True)
        self.method.before_step(progress)
        if len(parts) == 1:
            graphs = [self._forward(parts[0])]
        else:
            with torch.no_grad():
                graphs = [self._forward(views) for views in parts]
        local = tuple(torch.cat([part[i].detach() for part in graphs], dim=1) for i in range(len(graphs[0])))
        outputs = tuple(self.world.gather(output) for output in local)
        if labels is not None:
            labels = self.world.gather(labels[None])[0]
        leaves = tuple(output.requires_grad_(output.is_floating_point()) for output in outputs)
        loss, terms = self.method.total(leaves, labels, generator)
        outcome = Outcome(loss.detach(), {k: v.detach() for k, v in terms.items()}, outputs, {})
        if not bool(loss.isfinite()):
            return outcome
        wanted = [leaf for leaf in leaves if leaf.requires_grad]
        found = torch.autograd.grad(self.scaler.scale(loss), wanted, allow_unused=True)
        gradients = iter(found)
        self._backward(parts, graphs, [next(gradients) if leaf.requires_grad else None for leaf in leaves])
        outcome.outputs = tuple(output.detach() for output in outputs)
        if watch is not None:
            outcome.seen = watch(outcome.outputs, labels)
        skipped = self._update(number)
        outcome.logged = dict(self.method.after_step(progress, outcome.outputs))
        if self.scaler.is_enabled():
            outcome.logged |= {"loss_scale": self.scaler.get_scale(), "skipped": float(skipped)}
        return outcome

    def _forward(self, views: list[Tensor]) -> Outputs:
        kind = torch.float16 if self.recipe.precision == "fp16" else torch.bfloat16
        with torch.autocast(self.device.type, kind, enabled=self.recipe.precision != "fp32"):
            outputs: Outputs = self.method(views)
        return outputs

    def _backward(self, parts: Parts, graphs: list[Outputs], gradients: Sequence[Tensor | None]) -> None:
        size = graphs[0][0].shape[1]
        first = self.world.rank * len(parts) * size
        for number, views in enumerate(parts):
            with statistics_left(batch_norms(self.method)) if len(parts) > 1 else nullcontext():
                outputs = self._forward(views) if len(parts) > 1 else graphs[0]
                here = slice(first + number * size, first + (number + 1) * size)
                pairs = [
                    (output, gradient[:, here])
                    for output, gradient in zip(outputs, gradients, strict=True)
                    if gradient is not None and output.requires_grad
                ]
                torch.autograd.backward([output for output, _ in pairs], [gradient for _, gradient in pairs])

    def _update(self, number: int) -> bool:
        """Whether the update was left out because fp16 gradients overflowed (the scale is then halved)."""
        self.world.add_up([p.grad for p in self.method.parameters() if p.grad is not None])
        self.scaler.unscale_(self.optimizer)
        self.method.after_backward(number)
        if self.recipe.clip:
            nn.utils.clip_grad_norm_(self.method.parameters(), self.recipe.clip)
        before = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return self.scaler.get_scale() < before
