"""SwAV: the cluster of one view, assigned with equal shares over the batch, is predicted from the other views.

Sources, options, published schedules and what differs from them: `pretrain.presets.swav`.
"""

from __future__ import annotations

from itertools import groupby

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, log_softmax, normalize

from pretrain.methods import Method, Outputs
from pretrain.networks import build_encoder
from pretrain.presets.swav import PRESETS as PRESETS
from pretrain.presets.swav import PROTOCOLS as PROTOCOLS
from pretrain.presets.swav import Settings as Settings
from pretrain.recipe import EncoderSpec, at_least
from transfer.runtime.errors import UserError


class MultiCrop(nn.Module):
    """Views → encoder, all of one size together → projector, all together, as the authors' BatchNorm layers see them.

    Source: src/resnet50.py, `forward`.
    """

    def __init__(self, encoder: nn.Module, projector: nn.Module) -> None:
        super().__init__()
        self.encoder, self.projector = encoder, projector

    def forward(self, views: list[Tensor]) -> Tensor:
        """V views, each [n, 3, H, W], those of one size in a row → embeddings [V, n, d], not normalised."""
        sizes = [list(group) for _, group in groupby(views, key=lambda view: view.shape[-1])]
        features = torch.cat([self.encoder(torch.cat(group)) for group in sizes])
        embeddings: Tensor = self.projector(features).unflatten(0, (len(views), -1))
        return embeddings


@torch.no_grad()
def sinkhorn(scores: Tensor, epsilon: float = 0.05, iterations: int = 3) -> Tensor:
    """Soft assignment of n images to P prototypes that gives every prototype the same share (section 3.1, equation 3).

    Alternates between giving each prototype a share of 1 / P and each image a weight of 1 / n, starting from
    exp(scores / ε) (Cuturi 2013). The images come last, so their weights are exact.

    Args:
        scores: [..., n, P] products of embeddings and prototypes.
        epsilon: ε, weight of the assignment's entropy.
        iterations: rounds.

    Returns:
        [..., n, P], each row a distribution over prototypes.
    """
    log = scores / epsilon
    for _ in range(iterations):
        log = log - log.logsumexp(-2, keepdim=True)
        log = log - log.logsumexp(-1, keepdim=True)
    return log.exp()


def swapped_loss(scores: Tensor, codes: Tensor, temperature: float = 0.1) -> Tensor:
    """Cross-entropy of each code with the predictions of the other views (equation 2; section 3.2 for multi-crop).

    Args:
        scores: [V, n, P] of all views; those with codes first.
        codes: [K ≤ V, n, P] assignments, through which no gradient should flow.
        temperature: τ of the predictions, softmax(scores / τ).

    Returns:
        A scalar, the mean over images, codes and the V − 1 other views.
    """
    predicted = log_softmax(scores / temperature, dim=-1)
    others = predicted.sum(0) - predicted[: len(codes)]
    return -(codes * others).sum(-1).mean() / (len(scores) - 1)


class SwAV(Method):
    """One network and prototypes on the unit sphere, with a queue of earlier embeddings if wanted.

    The prototypes, the queue and the number of embeddings in it are the method's own state, not the branch's.
    """

    queue: Tensor
    queued: Tensor

    def __init__(self, network: EncoderSpec, settings: Settings) -> None:
        super().__init__()
        self.settings, self.forces = settings, settings.forces
        encoder, features = build_encoder(network, zero_init_residual=False)
        hidden, d = settings.hidden, settings.dimensions
        projector = nn.Sequential(
            nn.Linear(features, hidden), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True), nn.Linear(hidden, d)
        )
        self.online = MultiCrop(encoder, projector)
        self.prototypes = nn.Linear(d, settings.prototypes, bias=False)
        self.register_buffer("queue", torch.zeros(settings.views, settings.queue, d))
        self.register_buffer("queued", torch.zeros((), dtype=torch.int64))
        self._queued: int | None = None  # the same number here: asking a GPU for it in every step would wait for it
        self.register_load_state_dict_post_hook(lambda *_: self._forget())  # type: ignore[no-untyped-call]
        self.branches = {"online": self.online}
        self._normalise_prototypes()

    def forward(self, views: list[Tensor]) -> Outputs:
        """Unit embeddings [V, n, d] and their scores [V, n, P], float32; large views first."""
        z = normalize(self.online(views).float(), dim=-1)
        # Half precision would shift scores / ε by some hundredths.
        with torch.autocast(z.device.type, enabled=False):
            return z, self.prototypes(z)

    def embeddings(self, outputs: Outputs) -> Tensor:
        """The embeddings, which `forward` has normalised."""
        return outputs[0]

    def loss(self, outputs: Outputs, labels: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy of swapped assignments; log P where all embeddings are the same."""
        scores = outputs[1]
        found = swapped_loss(scores, self._codes(scores), self.settings.temperature)
        return found, {"swapped": found}

    @torch.no_grad()
    def _codes(self, scores: Tensor) -> Tensor:
        """Assignments [K, n, P] of the large views of this batch."""
        settings = self.settings
        large = scores[: settings.views]
        if settings.queue and self._count() == settings.queue:
            large = torch.cat([linear(self.queue, self.prototypes.weight), large], dim=1)
        return sinkhorn(large, settings.epsilon, settings.sinkhorn_iterations)[:, -scores.shape[1] :]

    def after_backward(self, step: int) -> None:
        """Holds the prototypes still at the start, without momentum or decay."""
        if step < self.settings.freeze:
            self.prototypes.weight.grad = None

    def after_step(self, progress: float, outputs: Outputs) -> dict[str, float]:
        """Puts the prototypes back on the sphere and the batch's large views into the queue, the newest first."""
        self._normalise_prototypes()
        length = self.settings.queue
        if not length:
            return {}
        if progress >= self.settings.queue_from:
            z = outputs[0][: self.settings.views]
            self.queue.copy_(torch.cat([z, self.queue], dim=1)[:, :length])
            self._queued = min(self._count() + z.shape[1], length)
            self.queued.fill_(self._queued)
        return {"queued": float(self._count())}

    def _count(self) -> int:
        if self._queued is None:
            self._queued = int(self.queued)
        return self._queued

    def _forget(self) -> None:
        self._queued = None

    @torch.no_grad()
    def _normalise_prototypes(self) -> None:
        self.prototypes.weight.copy_(normalize(self.prototypes.weight, dim=1))


def build(network: EncoderSpec, settings: Settings) -> SwAV:
    """The method for one encoder.

    Raises:
        UserError: settings that make no sense.
    """
    lowest = {"views": 1, "small_views": 0, "small_crop": 16, "hidden": 1, "dimensions": 1, "prototypes": 2}
    at_least(settings, {**lowest, "sinkhorn_iterations": 1, "freeze": 0, "queue": 0})
    if settings.small_views:
        network.check_side("--small-crop", settings.small_crop)
    if settings.views + settings.small_views < 2:
        raise UserError(
            "--views 1 without small views leaves no other view to predict from",
            todo="give --views 2, or --small-views 1 or more",
        )
    for name in ("temperature", "epsilon"):
        if not getattr(settings, name) > 0:
            raise UserError(f"--{name} is {getattr(settings, name)}", todo="give a positive number")
    if not 0 <= settings.queue_from < 1:
        raise UserError(
            f"--queue-from is {settings.queue_from}", todo="give a share of the training: 0 or more, below 1"
        )
    return SwAV(network, settings)
