"""SimSiam: a predictor and a stopped gradient keep two views of one network from collapsing.

Chen and He, "Exploring Simple Siamese Representation Learning" (CVPR 2021). Published settings:
facebookresearch/simsiam, main_simsiam.py (with --fix-pred-lr, as in its README) and simsiam/builder.py.

The authors lower the learning rate once an epoch, here it follows the same cosine at every step. Their model for
detection ("optimal" in table 5) is `--preset 200 --lr 0.5 --weight-decay 1e-5`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from tyro.conf import OmitArgPrefixes

from pretrain.losses import Forces
from pretrain.methods import Method, Outputs
from pretrain.networks import Network, build_encoder, perceptron
from pretrain.recipe import Recipe, demo
from transfer.errors import UserError


@dataclass(frozen=True)
class Settings:
    """Options of SimSiam.

    Attributes:
        views: number of views of an image; 2.
        forces: the two dispersing forces, which act on the predictions.
        dimensions: d, length of an embedding; the projector's two hidden layers are as wide as the encoder's feature.
        bottleneck: units of the predictor's hidden layer.
    """

    views: int = 2
    forces: OmitArgPrefixes[Forces] = field(default_factory=Forces)
    dimensions: int = 2048
    bottleneck: int = 512


def _recipe(epochs: int, batch: int) -> Recipe:
    # Section 3, baseline settings: SGD, cosine without warm-up, decay of 1e-4 on all parameters.
    return Recipe(
        augmentation="moco",
        epochs=epochs,
        warmup_epochs=0,
        batch=batch,
        optimizer="sgd",
        lr=0.05,
        weight_decay=1e-4,
        decay_all=True,
    )


PRESETS: dict[str, tuple[Recipe, Settings]] = {
    "100": (_recipe(100, 512), Settings()),
    # Table 4: the longer trainings have batches of 256.
    "200": (_recipe(200, 256), Settings()),
    "400": (_recipe(400, 256), Settings()),
    "800": (_recipe(800, 256), Settings()),
    # Not a protocol: a minute or two on two CPU cores. A high learning rate, because there are few steps.
    "demo": (
        demo(augmentation="moco", optimizer="sgd", lr=2.0, weight_decay=1e-5),
        Settings(dimensions=512, bottleneck=128),
    ),
}


class Siamese(nn.Module):
    """Images [n, 3, H, W] → predictions p and projections z, [n, d] each; BatchNorm sees one view at a time.

    Source: simsiam/builder.py. The projector's last BatchNorm has neither scale nor shift, and takes away the (there
    frozen) bias of the layer before it, which is therefore left out.
    """

    def __init__(self, network: Network, d: int, bottleneck: int) -> None:
        super().__init__()
        self.encoder, features = build_encoder(network, zero_init_residual=True)
        layers = perceptron([features, features, features, d], bias=False)
        self.projector = nn.Sequential(*layers, nn.BatchNorm1d(d, affine=False))
        self.predictor = nn.Sequential(
            nn.Linear(d, bottleneck, bias=False),
            nn.BatchNorm1d(bottleneck),
            nn.ReLU(inplace=True),
            nn.Linear(bottleneck, d),
        )

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """p and z of one view."""
        z = self.projector(self.encoder(images))
        return self.predictor(z), z


class SimSiam(Method):
    """One network with a predictor, whose learning rate does not decay (table 1, last row)."""

    def __init__(self, network: Network, settings: Settings) -> None:
        super().__init__()
        self.settings, self.forces = settings, settings.forces
        self.online = Siamese(network, settings.dimensions, settings.bottleneck)
        self.branches = {"online": self.online}
        self.constant_rate = (self.online.predictor,)

    def forward(self, views: list[Tensor]) -> Outputs:
        """Predictions p, and projections z without their gradient: unit vectors [2, n, d] in float32."""
        p, z = (torch.stack(parts) for parts in zip(*(self.online(view) for view in views), strict=True))
        return normalize(p.float(), dim=-1), normalize(z.detach().float(), dim=-1)

    def embeddings(self, outputs: Outputs) -> Tensor:
        """p, which `forward` has normalised."""
        return outputs[0]

    def loss(self, outputs: Outputs, labels: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        """−½·⟨p_1, z_2⟩ − ½·⟨p_2, z_1⟩, mean over images, −1 to 1 (equation 4)."""
        p, z = outputs
        attraction = -(p * z.detach().flip(0)).sum(-1).mean()
        return attraction, {"cosine": attraction}


def build(network: Network, settings: Settings) -> SimSiam:
    """The method for one ResNet.

    Raises:
        UserError: settings that make no sense.
    """
    if settings.views != 2:
        raise UserError(f"--views is {settings.views}", todo="give --views 2: SimSiam compares two views")
    if min(settings.dimensions, settings.bottleneck) < 1:
        raise UserError(
            "--dimensions and --bottleneck must be positive", todo="give 1 or more (published: 2048 and 512)"
        )
    return SimSiam(network, settings)
