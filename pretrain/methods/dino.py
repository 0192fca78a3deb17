"""DINO: a student says of every view of an image what its moving average, the teacher, says of the large ones.

Sources, options, published schedules and what differs from them: `pretrain.presets.dino`.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, normalize

from pretrain.methods import Method, Outputs
from pretrain.methods.swav import MultiCrop, swapped_loss
from pretrain.networks import build_encoder, decay_at, follow
from pretrain.presets.dino import PRESETS as PRESETS
from pretrain.presets.dino import PROTOCOLS as PROTOCOLS
from pretrain.presets.dino import Settings as Settings
from pretrain.recipe import EncoderSpec, at_least
from transfer.runtime.errors import UserError


class NormedRows(nn.Module):
    """A linear layer without bias whose rows have a direction and a length of their own (weight normalisation).

    Attributes:
        direction: [outputs, d], of any length.
        length: [outputs, 1], 1 at the start.
    """

    def __init__(self, d: int, outputs: int, fixed: bool) -> None:
        super().__init__()
        self.direction = nn.Linear(d, outputs, bias=False).weight  # begins as torch begins a linear layer
        self.length = nn.Parameter(torch.ones(outputs, 1), requires_grad=not fixed)

    def forward(self, z: Tensor) -> Tensor:
        """[..., d] → [..., outputs]."""
        return linear(z, self.length * normalize(self.direction, dim=1))


class DistillationHead(nn.Module):
    """Three linear layers with GELU between them → unit vectors; `last` makes scores of these.

    Source: Caron et al. 2021, appendix C; facebookresearch/dino: vision_transformer.py, DINOHead.
    """

    def __init__(self, features: int, settings: Settings) -> None:
        super().__init__()
        hidden, d = settings.hidden, settings.dimensions
        self.layers = nn.Sequential(
            nn.Linear(features, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, d)
        )
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        self.last = NormedRows(d, settings.prototypes, settings.fixed_norm)

    def forward(self, features: Tensor) -> Tensor:
        """Features [n, features] → bottleneck [n, d], unit vectors in float32."""
        return normalize(self.layers(features).float(), dim=-1)


class DINO(Method):
    """Student and teacher with a head each, and the running mean of the teacher's scores.

    Attributes:
        center: [prototypes], 0 at the start.
    """

    center: Tensor
    evaluated = "target"  # facebookresearch/dino: eval_knn.py, eval_linear.py (--checkpoint_key teacher)
    decays_tokens = True  # utils.py, get_params_groups: spares biases and vectors alone

    def __init__(self, network: EncoderSpec, settings: Settings) -> None:
        super().__init__()
        self.settings, self.forces = settings, settings.forces
        # vision_transformer.py, interpolate_pos_encoding: small views see the table resized by a factor with 0.1 in it
        encoder, features = build_encoder(network, zero_init_residual=False, positions="offset")
        self.online = MultiCrop(encoder, DistillationHead(features, settings))
        self.target = copy.deepcopy(self.online).requires_grad_(False)
        self.branches = {"online": self.online, "target": self.target}
        self.register_buffer("center", torch.zeros(settings.prototypes))
        self._progress = 0.0

    def forward(self, views: list[Tensor]) -> Outputs:
        """Student's bottleneck [V, n, d] and scores [V, n, P], teacher's scores [K, n, P], float32.

        The large views come first.
        """
        z, scores = self._scores(self.online, views)
        with torch.no_grad():
            _, wanted = self._scores(self.target, views[: self.settings.views])
        return z, scores, wanted

    def _scores(self, branch: nn.Module, views: list[Tensor]) -> tuple[Tensor, Tensor]:
        z: Tensor = branch(views)
        head: DistillationHead = branch.projector  # type: ignore[assignment]
        with torch.autocast(z.device.type, enabled=False):  # divided by 0.04, half precision would be steps of 0.01
            return z, head.last(z)

    def embeddings(self, outputs: Outputs) -> Tensor:
        """The student's bottleneck, which the head has normalised."""
        return outputs[0]

    def loss(self, outputs: Outputs, labels: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy of the teacher's distribution of a large view with the student's of each other view (eq. 3).

        A mean over images and pairs of views; log P where all embeddings are the same and the centre has caught up.
        """
        _, scores, wanted = outputs
        said = ((wanted.detach() - self.center) / self.teacher_temperature()).softmax(-1)
        found = swapped_loss(scores, said, self.settings.temperature)
        return found, {"distillation": found}

    def teacher_temperature(self) -> float:
        """Of the step that is being done."""
        settings = self.settings
        first, last, warmup = settings.first_temperature, settings.teacher_temperature, settings.temperature_warmup
        return first + (last - first) * min(1.0, self._progress / warmup) if warmup else last

    def weight_decay(self, progress: float, first: float) -> float:
        """From the recipe's to `final_decay`, along a cosine."""
        last = self.settings.final_decay
        return last + (first - last) * (1 + math.cos(math.pi * progress)) / 2

    def before_step(self, progress: float) -> None:
        """The teacher's temperature follows the training."""
        self._progress = progress

    @torch.no_grad()
    def after_backward(self, step: int) -> None:
        """Shortens the gradient of each tensor that is too long, and holds the last layer still at the start."""
        if self.settings.clip_each:
            gradients = [p.grad for p in self.online.parameters() if p.grad is not None]
            for gradient, norm in zip(gradients, torch._foreach_norm(gradients), strict=True):
                gradient.mul_((self.settings.clip_each / (norm + 1e-6)).clamp_max(1.0))
        if step < self.settings.freeze:
            for parameter in self.online.projector.last.parameters():  # type: ignore[union-attr]
                parameter.grad = None

    @torch.no_grad()
    def after_step(self, progress: float, outputs: Outputs) -> dict[str, float]:
        """Moves the centre towards the mean of the teacher's scores, and the teacher towards the student."""
        self.center.lerp_(outputs[2].mean((0, 1)), 1 - self.settings.center_momentum)
        decay = decay_at(progress, self.settings.ema)
        follow(self.target, self.online, decay)
        return {"ema": decay, "teacher_temperature": self.teacher_temperature()}


def build(network: EncoderSpec, settings: Settings) -> DINO:
    """The method for one encoder.

    Raises:
        UserError: settings that make no sense.
    """
    at_least(
        settings,
        {"views": 1, "small_views": 0, "small_crop": 16, "hidden": 1, "dimensions": 1, "prototypes": 2, "freeze": 0},
    )
    if settings.small_views:
        network.check_side("--small-crop", settings.small_crop)
    if settings.views + settings.small_views < 2:
        raise UserError(
            "--views 1 without small views leaves the student no other view than the teacher's",
            todo="give --views 2, or --small-views 1 or more",
        )
    for name in ("temperature", "teacher_temperature", "first_temperature"):
        if not 0 < getattr(settings, name) < math.inf:
            raise UserError(f"{_option(name)} is {getattr(settings, name)}", todo="give a positive number")
    for name in ("temperature_warmup", "center_momentum", "ema"):
        if not 0 <= getattr(settings, name) <= 1:
            raise UserError(f"{_option(name)} is {getattr(settings, name)}", todo="give a number from 0 to 1")
    for name in ("final_decay", "clip_each"):
        if not 0 <= getattr(settings, name) < math.inf:
            raise UserError(f"{_option(name)} is {getattr(settings, name)}", todo="give 0 or more")
    return DINO(network, settings)


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")
