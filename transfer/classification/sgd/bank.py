"""Many linear classifiers trained at once by SGD: one matrix product serves all that look at the same features.

A published linear protocol is a search over learning rate, weight decay and pooling. The classifiers of such a search
share their images and what the frozen network makes of them, and differ in a few numbers. Here they are rows of one
matrix; the gradient of softmax regression is written out, so nothing is recorded for a backward pass.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from transfer.classification.sgd.recipe import SgdSchedule, epoch_order
from transfer.runtime.errors import DataError, TrainingError, UserError
from transfer.runtime.world import World

INITIAL_SCALE = 0.01  # of weights; facebookresearch/vicreg and barlowtwins, evaluate.py: normal, and biases 0
CHECK_EVERY = 50  # steps between looks at whether any classifier is left: each look waits for the device

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Head:
    """What one linear classifier of a search is trained with.

    Attributes:
        lr: learning rate where the schedule is at its full height.
        weight_decay: L2, added to the gradient of weights and biases (torch.optim.SGD).
        pooling: name of the features that it sees.
    """

    lr: float
    weight_decay: float
    pooling: str


@dataclass(frozen=True)
class Norm:
    """A BatchNorm2d between the pooled map and the classifiers, as VISSL's linear evaluation has it.

    It normalises each channel over images and positions, before the map is flattened (facebookresearch/vissl:
    vissl/models/heads/linear_eval_mlp.py). In training the statistics are those of the whole batch, over all processes;
    afterwards the running ones. Weight decay leaves it alone (there: regularize_bn False).

    Attributes:
        channels: of the pooled map, each normalised over its positions; 0: the features are of no map, and each of
            their numbers is normalised by itself.
        affine: whether each classifier has a scale and a shift for every channel.
        eps: added to the variance.
        momentum: of the running statistics.
    """

    channels: int
    affine: bool
    eps: float
    momentum: float


class _Statistics:
    """Running mean and variance of the channels of one pooling, which all its classifiers share."""

    def __init__(self, norm: Norm, device: torch.device) -> None:
        self.norm = norm
        self.mean, self.var = torch.zeros(norm.channels, device=device), torch.ones(norm.channels, device=device)

    def normalised(self, x: Tensor) -> Tensor:
        """[n, width] by the running statistics."""
        return self._by(x, self.mean, self.var)

    def of_batch(self, x: Tensor, images: int, world: World | None) -> Tensor:
        """[n, width] by the statistics of the whole batch of `images`, which the running ones move towards."""
        maps = self._maps(x)
        count = images * maps.shape[2]
        mean = _summed(maps.sum((0, 2)), world) / count
        # Two passes (mean, then variance about it): the difference of two large sums would lose digits.
        var = _summed((maps - mean[:, None]).square().sum((0, 2)), world) / count
        if count < 2:  # a lone number has no variance
            return self.normalised(x)
        self.mean.lerp_(mean, self.norm.momentum)
        self.var.lerp_(var * (count / (count - 1)), self.norm.momentum)
        return self._by(x, mean, var)

    def _maps(self, x: Tensor) -> Tensor:
        return x.view(len(x), self.norm.channels, x.shape[1] // self.norm.channels)

    def _by(self, x: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        return ((self._maps(x) - mean[:, None]) * torch.rsqrt(var + self.norm.eps)[:, None]).view(x.shape)


def _summed(part: Tensor, world: World | None) -> Tensor:
    if world is not None:
        world.add_up([part])
    return part


class _Group:
    """The classifiers on one pooling: rows of one weight matrix [heads · classes, width]; perhaps scales and shifts.

    With a norm, a classifier sees γ·x̂ + β of the normalised features x̂. Its scale and shift are taken into the weights,
    so that the large products stay one for all classifiers: W·(γ·x̂ + β) + b = (W·γ)·x̂ + (b + W·β).
    """

    def __init__(
        self, places: list[int], heads: Sequence[Head], first: Tensor, norm: Norm | None, device: torch.device
    ) -> None:
        self.places = torch.tensor(places, device=device)
        count, self.classes = len(places), len(first)
        self.weight = first.to(device).repeat(count, 1)
        self.bias = torch.zeros(len(self.weight), device=device)
        if norm is not None and not norm.channels:
            norm = replace(norm, channels=self.weight.shape[1])
        self.parameters = {"weight": self.weight, "bias": self.bias}
        self.statistics = None if norm is None else _Statistics(norm, device)
        if norm is not None and norm.affine:
            self.parameters["scale"] = torch.ones(count, norm.channels, device=device)
            self.parameters["shift"] = torch.zeros(count, norm.channels, device=device)
        self.velocities = {name: torch.zeros_like(tensor) for name, tensor in self.parameters.items()}
        self.weight_gradient = torch.empty_like(self.weight)
        self.lr = torch.tensor([[heads[place].lr] for place in places], device=device)
        self.decay = torch.tensor([[heads[place].weight_decay] for place in places], device=device)

    def state(self) -> dict[str, Tensor]:
        """All of it by name."""
        found = dict(self.parameters) | {f"{name}_velocity": tensor for name, tensor in self.velocities.items()}
        if self.statistics is not None:
            found |= {"running_mean": self.statistics.mean, "running_var": self.statistics.var}
        return found

    def logits(self, x: Tensor) -> Tensor:
        """[n, width] → [n, heads, classes], with the running statistics."""
        return self._scores(x if self.statistics is None else self.statistics.normalised(x))

    def _scores(self, x: Tensor) -> Tensor:
        weight, bias = self.weight, self.bias
        if "scale" in self.parameters:
            cut = self._cut(weight)
            weight = (cut * self.parameters["scale"][:, None, :, None]).view(weight.shape)
            bias = bias + (cut.sum(3) * self.parameters["shift"][:, None]).sum(2).flatten()
        return torch.addmm(bias, x, weight.T).view(len(x), len(self.lr), self.classes)

    def _cut(self, rows: Tensor) -> Tensor:
        """[heads · classes, width] → [heads, classes, channels, positions]."""
        return rows.view(len(self.lr), self.classes, self.parameters["scale"].shape[1], -1)

    def gradients(
        self, x: Tensor, labels: Tensor, images: int, world: World | None
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Gradients by name, and each classifier's loss: sums over these images, divided by `images`."""
        if self.statistics is not None:
            x = self.statistics.of_batch(x, images, world)
        logs = self._scores(x).log_softmax(2)
        own = labels.view(-1, 1, 1).expand(-1, logs.shape[1], 1)
        losses = logs.gather(2, own).sum((0, 2)) / -images
        slope = logs.exp_().scatter_add_(2, own, torch.full_like(own, -1, dtype=logs.dtype)).div_(images)
        slope = slope.view(len(x), len(self.weight))  # (softmax − one-hot) / images
        torch.mm(slope.T, x, out=self.weight_gradient)
        found = {"weight": self.weight_gradient, "bias": slope.sum(0)}
        if "scale" in self.parameters:
            scale, shift = self.parameters["scale"], self.parameters["shift"]
            seen, weight, pulls = self._cut(self.weight_gradient), self._cut(self.weight), found["bias"]
            pulls = pulls.view(len(self.lr), self.classes, 1)
            found["scale"] = (weight * seen).sum((1, 3))
            found["shift"] = (weight.sum(3) * pulls).sum(1)
            seen.mul_(scale[:, None, :, None]).add_((pulls * shift[:, None])[..., None])
        return found, losses

    def descend(self, gradients: Mapping[str, Tensor], share: float, rule: Rule) -> None:
        """A step of torch.optim.SGD with every classifier's own rate and decay."""
        rates = self.lr * -share
        for name, gradient in gradients.items():
            rows, speed, slope = (
                tensor.view(len(self.lr), -1) for tensor in (self.parameters[name], self.velocities[name], gradient)
            )
            decay = self.decay if name in ("weight", "bias") else torch.zeros_like(self.decay)
            if rule.trust and (rule.vectors or name == "weight"):
                slope = _adapted(slope, rows, decay, rule.trust)
            elif name in ("weight", "bias"):
                slope.addcmul_(rows, decay)
            torch.add(slope, speed, alpha=rule.momentum, out=speed)  # from 0: the first velocity is the gradient
            rows.addcmul_(slope.add_(speed, alpha=rule.momentum) if rule.nesterov else speed, rates)


def _adapted(slope: Tensor, rows: Tensor, decay: Tensor, trust: float) -> Tensor:
    """LARS for every row, [heads, numbers]: (g + d·w) · trust·‖w‖ / (‖g‖ + d·‖w‖), and g where a norm is 0.

    As NVIDIA/apex: apex/parallel/LARC.py with clip=False, which facebookresearch/simsiam's main_lincls.py uses; biases,
    which begin at 0, are adapted from their second step on.
    """
    length, steepness = (torch.linalg.vector_norm(each, dim=1, keepdim=True) for each in (rows, slope))
    ratio = trust * length / (steepness + decay * length + 1e-8)
    return torch.where((length > 0) & (steepness > 0), (slope + decay * rows) * ratio, slope)


@dataclass(frozen=True)
class Rule:
    """How all classifiers of a bank descend.

    Attributes:
        momentum: of torch.optim.SGD, without dampening.
        nesterov: whether the momentum looks ahead.
        trust: LARS's coefficient; 0: plain SGD.
        vectors: whether LARS adapts biases, scales and shifts, too.
    """

    momentum: float
    nesterov: bool
    trust: float = 0.0
    vectors: bool = True


class Bank:
    """Linear classifiers that see the same images. Those on one pooling start from equal weights.

    A classifier whose loss or weights are no longer finite is `lost`: it disturbs no other, for its numbers meet those
    of the others nowhere, and it must not be chosen.

    Attributes:
        heads: what each is trained with.
        classes: number of classes.
        lost: bool [H].
    """

    def __init__(
        self,
        heads: Sequence[Head],
        widths: Mapping[str, int],
        classes: int,
        *,
        rule: Rule,
        norm: Norm | None = None,
        seed: int,
        device: torch.device,
    ) -> None:
        """Weights from N(0, `INITIAL_SCALE`²), drawn by `seed` on the CPU; biases 0.

        Args:
            heads: at least one.
            widths: length of the feature vectors of each pooling: a multiple of the norm's channels, whose positions
                lie beside each other.
            norm: in front of the classifiers of every pooling; None: they see the features as they are.

        Raises:
            UserError: no head, a rate or decay that is no number ≥ 0, a pooling without features.
        """
        self.heads, self.classes, self.rule = tuple(heads), classes, rule
        _check_heads(self.heads, widths)
        self.groups: dict[str, _Group] = {}
        for pooling in sorted({head.pooling for head in heads}):
            places = [place for place, head in enumerate(heads) if head.pooling == pooling]
            generator = torch.Generator().manual_seed(seed)
            first = torch.randn(classes, widths[pooling], generator=generator) * INITIAL_SCALE
            self.groups[pooling] = _Group(places, self.heads, first, norm, device)
        self.lost = torch.zeros(len(heads), dtype=torch.bool, device=device)

    def __len__(self) -> int:
        return len(self.heads)

    @torch.no_grad()
    def step(
        self, features: Mapping[str, Tensor], labels: Tensor, share: float, images: int, world: World | None = None
    ) -> Tensor:
        """One step of SGD for every classifier on its mean cross-entropy.

        Args:
            features: of each pooling [n, width], float32.
            labels: int64 [n].
            share: of the full learning rate.
            images: of the whole batch; n unless several processes share it.
            world: the processes whose gradients are summed.

        Returns:
            The losses [H] before the step, of the whole batch.
        """
        losses = torch.zeros(len(self), device=self.lost.device)
        found = {}
        for pooling, group in self.groups.items():
            found[pooling], losses[group.places] = group.gradients(features[pooling], labels, images, world)
        if world is not None:
            world.add_up([losses, *(tensor for gradients in found.values() for tensor in gradients.values())])
        for pooling, group in self.groups.items():
            group.descend(found[pooling], share, self.rule)
        self.lost |= ~losses.isfinite()
        return losses

    @torch.no_grad()
    def logits(self, features: Mapping[str, Tensor]) -> Tensor:
        """Features of each pooling [n, width] → [n, H, classes]."""
        rows = len(next(iter(features.values())))
        out = torch.empty(rows, len(self), self.classes, device=self.lost.device)
        for pooling, group in self.groups.items():
            out[:, group.places] = group.logits(features[pooling])
        return out

    def classifier(self, place: int) -> tuple[Tensor, Tensor]:
        """Weight [classes, width] and bias [classes] of head number `place`, without a norm's: views, not copies."""
        group = self.groups[self.heads[place].pooling]
        row = group.places.tolist().index(place)
        rows = slice(row * self.classes, (row + 1) * self.classes)
        return group.weight[rows], group.bias[rows]

    def note_lost(self) -> None:
        """Mark classifiers whose weights are not finite: the last step's loss cannot show what it did.

        Raises:
            TrainingError: none is left.
        """
        for group in self.groups.values():
            for tensor in group.parameters.values():
                self.lost[group.places] |= ~tensor.view(len(group.lr), -1).isfinite().all(1)
        self.refuse_if_all_lost()

    def refuse_if_all_lost(self) -> None:
        """Raise `TrainingError` if no classifier is left."""
        if bool(self.lost.all()):
            raise TrainingError(
                "every linear classifier has diverged: losses or weights are not finite",
                found=f"learning rates {', '.join(sorted({f'{head.lr:g}' for head in self.heads}))}",
                todo="add lower learning rates; features that are not finite show up like this too",
            )

    def state(self) -> dict[str, Tensor]:
        """All that a resume needs, by name; not copied."""
        groups = self.groups.items()
        return {"lost": self.lost} | {
            f"{key}.{name}": tensor for key, group in groups for name, tensor in group.state().items()
        }

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` gave; names and shapes must be this bank's."""
        own = self.state()
        if own.keys() != state.keys() or any(own[name].shape != state[name].shape for name in own):
            raise UserError(
                "saved classifiers do not fit those asked for",
                found=f"{sorted(state)[:4]} …, wanted {sorted(own)[:4]} …",
                todo="train them again in another folder",
            )
        for name, tensor in own.items():
            tensor.copy_(state[name])


def _check_heads(heads: Sequence[Head], widths: Mapping[str, int]) -> None:
    if not heads:
        raise UserError("there is no linear classifier to train", todo="give at least one learning rate")
    for head in heads:
        if not (0 <= head.lr < math.inf and 0 <= head.weight_decay < math.inf):
            raise UserError("learning rate and weight decay must be numbers from 0", found=str(head))
        if head.pooling not in widths:
            raise UserError(
                f"there are no features of pooling {head.pooling!r}", found=f"poolings {', '.join(sorted(widths))}"
            )


def rule_of(schedule: SgdSchedule) -> Rule:
    """Of a protocol."""
    trust = schedule.trust if schedule.optimizer == "lars" else 0.0
    return Rule(schedule.momentum, schedule.nesterov, trust, schedule.lars_of_vectors)


Rows = Tensor | NDArray[Any]


def train_on_features(
    train: Mapping[str, Rows],
    labels: Rows,
    grid: Sequence[Head],
    schedule: SgdSchedule,
    *,
    classes: int,
    norm: Norm | None = None,
    seed: int = 0,
    device: torch.device | None = None,
) -> Bank:
    """The fast form of a linear protocol: classifiers on features that were computed once, without random crops.

    Args:
        train: of each pooling in `grid` [n, width], of any floating type; may be memory-mapped: rows are read batch by
            batch and only a batch is held in float32.
        labels: integers [n] in 0 … `classes` − 1.
        seed: of the first weights and of the order of rows.
        device: where to train; the CPU unless told.

    Raises:
        DataError: features and labels that do not fit together.
        UserError: a schedule or grid that cannot be trained.
        TrainingError: every classifier diverged.
    """
    schedule.check()
    device = device or torch.device("cpu")
    target, rows = labels if isinstance(labels, Tensor) else torch.from_numpy(np.array(labels)), len(labels)
    _check_rows(train, target, classes)
    target = target.to("cpu", torch.int64)
    widths = {pooling: x.shape[1] for pooling, x in train.items()}
    bank = Bank(grid, widths, classes, rule=rule_of(schedule), norm=norm, seed=seed, device=device)
    for step, places in _batches(rows, schedule, seed):
        x = {pooling: _taken(train[pooling], places).to(device) for pooling in bank.groups}
        bank.step(x, target[places].to(device), schedule.share(step, rows), len(places))
        if step % CHECK_EVERY == 0:
            bank.refuse_if_all_lost()
    bank.note_lost()
    return bank


def _batches(rows: int, schedule: SgdSchedule, seed: int) -> Iterator[tuple[int, Tensor]]:
    per_epoch = schedule.epoch_steps(rows)
    order = torch.empty(0, dtype=torch.int64)
    for step in range(schedule.total_steps(rows)):
        epoch, number = divmod(step, per_epoch)
        if number == 0:
            order = torch.from_numpy(epoch_order(rows, seed, epoch))
        yield step, order[number * schedule.batch : (number + 1) * schedule.batch]


def _taken(features: Rows, places: Tensor) -> Tensor:
    """Rows of a tensor or of an array that may lie on the disk, in memory and float32."""
    if isinstance(features, Tensor):
        return features[places.to(features.device)].float()
    return torch.from_numpy(np.asarray(features[places.numpy()], dtype=np.float32))


def _check_rows(train: Mapping[str, Rows], labels: Tensor, classes: int) -> None:
    shapes = {pooling: list(x.shape) for pooling, x in train.items()}
    if not shapes or labels.ndim != 1 or not len(labels) or any(
        len(shape) != 2 or shape[0] != len(labels) for shape in shapes.values()
    ):  # fmt: skip
        raise DataError("features and labels do not fit together", found=f"{shapes}, labels {list(labels.shape)}")
    if labels.is_floating_point() or int(labels.min()) < 0 or int(labels.max()) >= classes:
        raise DataError(
            "labels are no class numbers",
            found=f"{labels.dtype}, {labels.min().item()} … {labels.max().item()}",
            todo=f"give integers in 0 … {classes - 1}",
        )
