"""MoCo v2: a view finds its image's key, made by a slow copy, among a long queue of the keys of earlier batches.

Sources, options, published schedules and what differs from them: `pretrain.presets.mocov2`.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from pretrain.methods import Method, Outputs
from pretrain.networks import Branch, build_encoder, follow, slow_copy
from pretrain.presets.mocov2 import PRESETS as PRESETS
from pretrain.presets.mocov2 import PROTOCOLS as PROTOCOLS
from pretrain.presets.mocov2 import Settings as Settings
from pretrain.recipe import EncoderSpec
from transfer.runtime.errors import UserError


def companions(n: int, groups: int, device: torch.device | None = None, first_row: int = 0) -> tuple[Tensor, Tensor]:
    """Whose BatchNorm statistics each of n images shares as a query and as a key.

    The images are a share of a batch that begins with row `first_row` of `groups` images, so that several processes
    deal them out as one would.

    Query group g holds the images g, g + groups, g + 2·groups, …; the keys of these are dealt out in turn to all key
    groups, so of any query group's images a key group holds one in `groups`, rounded up.

    Returns:
        Two [groups, n / groups] tensors of the numbers 0 … n − 1, a group in each row.
    """
    place = torch.arange(n, device=device).view(-1, groups)
    row = torch.arange(len(place), device=device)[:, None] + first_row
    column = torch.arange(groups, device=device)
    return place.T, place.gather(1, (column - row) % groups).T


def embed_in_groups(branch: nn.Module, images: Tensor, groups: Tensor) -> Tensor:
    """Unit vectors [n, d] in float32 of images [n, 3, H, W], a group at a time, in the order of the images."""
    embedded = torch.cat([branch(images[group]) for group in groups])
    return normalize(embedded[groups.flatten().argsort()].float(), dim=-1)


class MoCo(Method):
    """Query encoder, key encoder and queue.

    Attributes:
        queue: [queue, d] unit vectors, at the start random ones as in moco/builder.py.
        position: where the next key goes, which is where the oldest is.
    """

    queue: Tensor
    position: Tensor

    def __init__(self, network: EncoderSpec, settings: Settings) -> None:
        super().__init__()
        self.settings, self.forces = settings, settings.forces
        encoder, features = build_encoder(network, zero_init_residual=False)
        head = nn.Sequential(nn.Linear(features, features), nn.ReLU(), nn.Linear(features, settings.dimensions))
        self.online = Branch(encoder, head)
        self.target = slow_copy(self.online)
        self.branches = {"online": self.online, "target": self.target}
        self.register_buffer("queue", normalize(torch.randn(settings.queue, settings.dimensions), dim=1))
        self.register_buffer("position", torch.zeros((), dtype=torch.long))

    def forward(self, views: list[Tensor]) -> Outputs:
        """Queries of the first view and keys of the second, unit vectors [1, n, d] in float32.

        Raises:
            UserError: the images do not divide into groups of two or more.
        """
        first, second = views
        n, groups = len(first), self.settings.groups
        if n % groups or n // groups < 2:
            raise UserError(
                f"{n} images at a time do not divide into --groups {groups} of two or more",
                todo=f"make --batch / (processes x --accumulate) a multiple of {groups}, or lower --groups",
            )
        rank = dist.get_rank() if dist.is_initialized() else 0
        together, apart = companions(n, groups, first.device, first_row=rank * (n // groups))
        q = embed_in_groups(self.online, first, together)
        with torch.no_grad():
            k = embed_in_groups(self.target, second, apart)
        return q[None], k[None]

    def embeddings(self, outputs: Outputs) -> Tensor:
        """The queries, which `forward` has normalised."""
        return outputs[0]

    def loss(self, outputs: Outputs, labels: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        """InfoNCE, mean over queries: −log of the share of the positive key (He et al. 2020, equation 1).

        Raises:
            UserError: the batch is larger than the queue.
        """
        q, k = outputs[0][0], outputs[1][0].detach()
        if len(q) > len(self.queue):
            raise UserError(
                f"a batch of {len(q)} does not fit into --queue {len(self.queue)}",
                todo=f"give --queue {len(q)} or more (published: 65536)",
            )
        positive = (q * k).sum(-1, keepdim=True)
        similarity = torch.cat([positive, q @ self.queue.T], dim=1)
        first = torch.zeros(len(q), dtype=torch.long, device=q.device)
        contrast = cross_entropy(similarity / self.settings.temperature, first)
        return contrast, {"info_nce": contrast}

    @torch.no_grad()
    def after_step(self, progress: float, outputs: Outputs) -> dict[str, float]:
        """Puts the batch's keys in the place of the oldest, and moves the key encoder towards the query encoder.

        Only now, so that a query never meets its own key among the negatives.
        """
        keys = outputs[1][0]
        places = (self.position + torch.arange(len(keys), device=keys.device)) % len(self.queue)
        self.queue[places] = keys
        self.position.add_(len(keys)).remainder_(len(self.queue))
        follow(self.target, self.online, self.settings.ema)
        return {}


def build(network: EncoderSpec, settings: Settings) -> MoCo:
    """The method for one encoder.

    Raises:
        UserError: settings that make no sense.
    """
    if settings.views != 2:
        raise UserError(f"--views is {settings.views}", todo="give --views 2: a query and its key")
    if settings.temperature <= 0:
        raise UserError(f"--temperature is {settings.temperature}", todo="give a positive number (published: 0.2)")
    if not 0 <= settings.ema <= 1:
        raise UserError(f"--ema is {settings.ema}", todo="give --ema between 0 and 1")
    for name, published in (("dimensions", 128), ("queue", 65536), ("groups", 8)):
        if getattr(settings, name) < 1:
            raise UserError(f"--{name} is {getattr(settings, name)}", todo=f"give 1 or more (published: {published})")
    return MoCo(network, settings)
