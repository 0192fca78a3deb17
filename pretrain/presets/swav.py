"""SwAV: the cluster of one view, assigned with equal shares over the batch, is predicted from the other views.

Caron, Misra, Mairal, Goyal, Bojanowski, Joulin, "Unsupervised Learning of Visual Features by Contrasting Cluster
Assignments" (NeurIPS 2020). Published settings: facebookresearch/swav, main_swav.py, src/resnet50.py and scripts/.

The authors train in half precision, which `--precision` sets here. Small views need `--small-views 0` to be left out;
the authors then crop from 0.08 of the image, not 0.14.

Assignments are computed over the batch of all processes, in float32 and logarithms, so that no --epsilon overflows.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tyro.conf import OmitArgPrefixes

from pretrain.forces import Forces
from pretrain.recipe import Recipe, demo


@dataclass(frozen=True)
class Settings:
    """Options of SwAV.

    Attributes:
        views: large views of an image; each of them gets an assignment.
        small_views: small views, which only predict (multi-crop).
        small_crop: side of a small view in pixels.
        forces: the two dispersing forces, on the embeddings of all views.
        hidden: units of the projector's hidden layer.
        dimensions: d, length of an embedding.
        prototypes: number of clusters.
        temperature: of the predicted distribution over prototypes.
        epsilon: of the assignment; smaller is sharper.
        sinkhorn_iterations: rounds of making shares equal.
        freeze: steps at the start in which prototypes do not move.
        queue: earlier embeddings that help to assign small batches, per large view; 0: none.
        queue_from: share of the training done when the queue starts to fill; it is used once it is full.
    """

    views: int = 2
    small_views: int = 6
    small_crop: int = 96
    forces: OmitArgPrefixes[Forces] = field(default_factory=Forces)
    hidden: int = 2048
    dimensions: int = 128
    prototypes: int = 3000
    temperature: float = 0.1
    epsilon: float = 0.05
    sinkhorn_iterations: int = 3
    freeze: int = 313
    queue: int = 0
    queue_from: float = 0.15


def _large_batch(epochs: int) -> tuple[Recipe, Settings]:
    # scripts/swav_*ep_pretrain.sh: 64 GPUs x 64 images; 4.8 for 4096 images is 0.3 for 256, 4.8 falls to 0.0048; it is
    # reached from 0.3 for the whole batch (--start_warmup) at the warm-up's last step (main_swav.py: np.linspace). LARC
    # adapts and decays every parameter. Prototypes rest for one epoch, 1,281,167 / 4096 = 313 steps.
    recipe = Recipe(
        augmentation="swav",
        epochs=epochs,
        warmup_epochs=10,
        start_lr=0.3 / 4.8,
        warmup_inclusive=True,
        batch=4096,
        lr=0.3,
        final_lr=0.001,
        weight_decay=1e-6,
        decay_all=True,
    )
    return recipe, Settings(queue_from=15 / epochs)


def _small_batch(epochs: int) -> tuple[Recipe, Settings]:
    # scripts/swav_*ep_bs256_pretrain.sh: 4 GPUs x 64 images; 0.6 falls to 0.0006, no warm-up. Prototypes rest for one
    # epoch, 1,281,167 / 256 = 5005 steps; a queue of 15 batches fills from epoch 15 on (--epoch_queue_starts 15).
    recipe = Recipe(
        augmentation="swav",
        epochs=epochs,
        warmup_epochs=0,
        batch=256,
        lr=0.6,
        final_lr=0.001,
        weight_decay=1e-6,
        decay_all=True,
    )
    return recipe, Settings(freeze=5005, queue=3840, queue_from=15 / epochs)


PROTOCOLS: dict[str, tuple[Recipe, Settings]] = {
    **{str(epochs): _large_batch(epochs) for epochs in (100, 200, 400, 800)},
    **{f"{epochs}-batch256": _small_batch(epochs) for epochs in (200, 400)},
}
PRESETS: dict[str, tuple[Recipe, Settings]] = {
    # Not a protocol: a minute or two on two CPU cores.
    "demo": (
        demo(augmentation="swav", optimizer="sgd", lr=0.2, weight_decay=1e-6),
        Settings(small_views=2, small_crop=32, hidden=512, dimensions=64, prototypes=32, freeze=4),
    ),
}
