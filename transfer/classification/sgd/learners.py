"""What the published SGD protocols train: classifiers behind a frozen network, or a network and its classifier."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from transfer.checkpoints.backbone import Backbone
from transfer.checkpoints.families import family_of
from transfer.checkpoints.verify import UNPROVED, Proof, kept, plain, prove
from transfer.classification.sgd.bank import INITIAL_SCALE, Bank
from transfer.classification.sgd.data import Batch
from transfer.classification.sgd.recipe import SgdRecipe
from transfer.classification.trunk import Trunk
from transfer.classification.views import to_network
from transfer.datasets.labels.labelled import PRESENT
from transfer.runtime.errors import Diverged
from transfer.runtime.world import World

TRAINED = "the network that was trained, before its first step"


@dataclass(frozen=True)
class LinearFit:
    """A frozen network and the classifiers behind it."""

    trunk: Trunk
    bank: Bank
    left_out: tuple[str, ...] = ()  # names of training images that could not be read
    began: Proof | None = None  # of the network that began a training which was taken up; None: it was this one

    @property
    def proof(self) -> Proof:
        """Of the network, and what is known of another one that began the training.

        Raises:
            EngineError: the network is not the checkpoint's.
        """
        said = "the frozen network, before it computed"
        if self.began is not None:
            unproved = self.began == UNPROVED
            said += f"; the one that began the training was {'not proved' if unproved else 'proved too (fit.pth)'}"
        return plain(self.trunk.proof, said)

    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> Tensor:
        """uint8 RGB [n, 3, crop, crop] → logits [n, H, classes]."""
        return self.bank.logits(self.trunk(pixels))


class FineTuned(nn.Module):
    """A backbone under a linear classifier, both trained; proved to be the checkpoint's before its first step.

    Attributes:
        side: of the images that it is trained on, in pixels, if known: the proof is made at that size, too.
        proof: made by `prove`, or by the one that began the training and kept in its checkpoint; None before.
    """

    def __init__(
        self,
        backbone: Backbone,
        classes: int,
        seed: int,
        device: torch.device,
        side: int = 0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.side = side
        self.backbone, self.device = backbone, device
        self.proof: Proof | None = None
        self.left_out: tuple[str, ...] = ()  # names of training images that could not be read
        self.network = backbone.network(drop_path) if drop_path else backbone.network()
        head = nn.Linear(family_of(backbone.arch).channels(backbone.arch), classes)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            head.weight.copy_(torch.randn(head.weight.shape, generator=generator) * INITIAL_SCALE)
            head.bias.zero_()
        self.network.set_submodule(family_of(backbone.arch).classifier, head)
        self.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.no_grad()
    def prove(self) -> Proof:
        """The proof; where there is none yet, this network, which nothing has trained, is compared with the checkpoint.

        Raises:
            EngineError: it is not the checkpoint's.
        """
        if self.proof is None:
            training = self.training
            self.eval()
            family, arch = family_of(self.backbone.arch), self.backbone.arch
            also = [(self.side, self.side)] if self.side and family.depends_on_size(arch) else []
            found = prove(
                self.backbone, "network", self.network, lambda pixels, _: self._logits(pixels), self.device, also=also
            )
            self.proof = plain(found, TRAINED)
            self.train(training)
        return self.proof

    def _logits(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.network(to_network(pixels, self.backbone.input, self.device))
        return logits

    def forward(self, pixels: Tensor) -> Tensor:
        """uint8 RGB [n, 3, crop, crop] → logits [n, classes]."""
        self.prove()
        return self._logits(pixels)


class LinearLearner:
    """Classifiers behind a frozen network; a `transfer.classification.sgd.loop.Learner`."""

    def __init__(self, fit: LinearFit, world: World) -> None:
        self.fit, self.world = fit, world
        self.began: Proof | None = None
        self._proved = False

    def step(self, batch: Batch, labels: Tensor, share: float, images: int, number: int) -> Tensor:
        """See `transfer.classification.sgd.loop.Learner`."""
        bank = self.fit.bank
        if not self._proved:  # here, and not in the trunk, so that all processes stop together
            self.world.together(lambda: self.fit.trunk.proof)
            self._proved = True
        if len(labels):
            with torch.no_grad():
                features = self.fit.trunk(batch.views.to(labels.device, non_blocking=True))
        else:
            features = {
                pooling: group.weight.new_empty(0, group.weight.shape[1]) for pooling, group in bank.groups.items()
            }
        return bank.step(features, labels, share, images, self.world)

    def numbers(self, losses: Tensor, share: float) -> dict[str, Any]:
        """See `transfer.classification.sgd.loop.Learner`."""
        bank = self.fit.bank
        bank.refuse_if_all_lost()
        known = [loss if math.isfinite(loss) else None for loss in losses.tolist()]
        rate = share * max(head.lr for head in bank.heads)
        return {"lr": rate, "loss": min(loss for loss in known if loss is not None), "losses": known}

    def check(self) -> None:
        """See `transfer.classification.sgd.loop.Learner`."""
        self.fit.bank.note_lost()

    def state(self) -> dict[str, Any]:
        """See `transfer.classification.sgd.loop.Learner`."""
        return {**self.fit.bank.state(), "proof": self.began or self.fit.proof}

    def load(self, state: Mapping[str, Any]) -> None:
        """See `transfer.classification.sgd.loop.Learner`."""
        self.began = kept(state, self.fit.trunk.backbone)
        self.fit.bank.load({name: tensor for name, tensor in state.items() if name != "proof"})


class NetworkLearner:
    """What a checkpoint keeps of a network that is trained, whatever trains it.

    Attributes:
        model: network and classifier.
        optimizer: over all of its parameters.
    """

    model: FineTuned
    optimizer: torch.optim.Optimizer

    def check(self) -> None:
        """See `transfer.classification.sgd.loop.Learner`."""
        for name, tensor in self.model.network.state_dict().items():
            if not bool(tensor.isfinite().all()):
                raise Diverged(f"{name} is no longer finite", todo="lower the learning rates")

    def state(self) -> dict[str, Any]:
        """See `transfer.classification.sgd.loop.Learner`."""
        network = dict(self.model.network.state_dict())
        return {"network": network, "optimizer": self.optimizer.state_dict(), "proof": self.model.proof}

    def load(self, state: Mapping[str, Any]) -> None:
        """See `transfer.classification.sgd.loop.Learner`."""
        proof = kept(state, self.model.backbone)
        if proof and proof["proved"] == TRAINED:
            proof = proof | {"proved": f"{TRAINED}; kept in the checkpoint from which the training went on (fit.pth)"}
        self.model.proof = proof
        self.model.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])


class FineTuner(NetworkLearner):
    """A network and its classifier, each with its learning rate; a `transfer.classification.sgd.loop.Learner`."""

    def __init__(self, model: FineTuned, recipe: SgdRecipe, world: World) -> None:
        self.model, self.world = model.train(), world
        self.rates = (recipe.lr, recipe.lr_backbone)
        named = list(model.network.named_parameters())
        start = family_of(model.backbone.arch).classifier + "."
        head = [parameter for name, parameter in named if name.startswith(start)]
        rest = [parameter for name, parameter in named if not name.startswith(start)]
        self.optimizer = torch.optim.SGD(
            [{"params": head, "lr": recipe.lr}, {"params": rest, "lr": recipe.lr_backbone}],
            lr=recipe.lr,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            nesterov=recipe.nesterov,
        )

    def step(self, batch: Batch, labels: Tensor, share: float, images: int, number: int) -> Tensor:
        """See `transfer.classification.sgd.loop.Learner`."""
        if self.model.proof is None:
            self.world.together(self.model.prove)
        parameters = list(self.model.parameters())
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        loss = torch.zeros((), device=labels.device)
        for part in sorted(set(batch.parts.tolist())):
            mine = (batch.parts == part).nonzero().flatten()  # places, not a mask: a GPU would be asked how many
            with nullcontext() if part == 0 else _untracked(self.model):
                logits = self.model(batch.views[mine])
            own = labels[mine.to(labels.device, non_blocking=True)]
            whole = summed_loss(logits, own) / images
            torch.autograd.backward(whole)
            loss += whole.detach()
        self.world.add_up([loss, *(parameter.grad for parameter in parameters if parameter.grad is not None)])
        if not bool(loss.isfinite()):
            raise Diverged(
                f"the loss is {loss.item()} at step {number}",
                found=f"learning rates {self.rates[0] * share:g} and {self.rates[1] * share:g}",
                todo="lower the learning rates",
            )
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * share
        self.optimizer.step()
        return loss

    def numbers(self, losses: Tensor, share: float) -> dict[str, Any]:
        """See `transfer.classification.sgd.loop.Learner`."""
        return {"lr": self.rates[0] * share, "lr_backbone": self.rates[1] * share, "loss": losses.item()}


def summed_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Sum over images of the loss of `logits` [n, classes].

    Cross-entropy for class numbers [n]. For [n, classes] of present, difficult and absent: binary cross-entropy, its
    mean over classes, difficult as absent (linusericsson/ssl-transfer: finetune.py, BCEWithLogitsLoss, whose mean is
    over images and classes; datasets/voc2007.py, target == 1).
    """
    if labels.ndim == 1:
        return nn.functional.cross_entropy(logits, labels, reduction="sum")
    wanted = (labels == PRESENT).to(logits)
    return nn.functional.binary_cross_entropy_with_logits(logits, wanted, reduction="sum") / labels.shape[1]


@contextmanager
def _untracked(model: nn.Module) -> Iterator[None]:
    """BatchNorm uses the statistics of what it sees and leaves the running ones alone."""
    layers = [layer for layer in model.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    for layer in layers:
        layer.track_running_stats = False
    try:
        yield
    finally:
        for layer in layers:
            layer.track_running_stats = True
