"""MoCo v2: a view finds its image's key, made by a slow copy, among a long queue of the keys of earlier batches.

He et al., "Momentum Contrast for Unsupervised Visual Representation Learning" (CVPR 2020); Chen, Fan, Girshick, He,
"Improved Baselines with Momentum Contrastive Learning" (2020). Published settings: facebookresearch/moco, main_moco.py
and moco/builder.py with --mlp --moco-t 0.2 --aug-plus --cos.

BatchNorm must not tell a query its key by the company that both keep. The authors shuffle the keys among 8 GPUs with
BatchNorm statistics of their own; here the batch is cut into `groups`, and keys are normalised among other companions
than queries (`companions`). Differences: the order of the keys is fixed (there: drawn anew; the images are in random
order anyway), and running statistics take every group in turn (there: those of one GPU).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tyro.conf import OmitArgPrefixes

from pretrain.forces import Forces
from pretrain.recipe import Recipe, demo


@dataclass(frozen=True)
class Settings:
    """Options of MoCo v2.

    Attributes:
        views: number of views of an image; 2, a query and a key.
        forces: the two dispersing forces, which act on the queries.
        dimensions: d, length of an embedding; the head's hidden layer is as wide as the encoder's feature.
        temperature: by which similarities are divided.
        ema: decay of the key encoder, constant.
        queue: number of keys that are remembered, at least a batch.
        groups: parts of the batch with BatchNorm statistics of their own (published: 8 GPUs with 32 images each); 1 is
            no shuffling, and BatchNorm gives the keys away. Where a process has statistics of its own
            (--no-sync-batchnorm) or sees its images in several turns (--accumulate), parts of what it sees at once.
    """

    views: int = 2
    forces: OmitArgPrefixes[Forces] = field(default_factory=Forces)
    dimensions: int = 128
    temperature: float = 0.2
    ema: float = 0.999
    queue: int = 65536
    groups: int = 8


def _recipe(epochs: int) -> Recipe:
    # sync_batchnorm stays on: a group is then the same eighth of the batch on one process and on eight.
    return Recipe(
        augmentation="moco",
        epochs=epochs,
        warmup_epochs=0,
        batch=256,
        optimizer="sgd",
        lr=0.03,
        per_epoch=True,  # main_moco.py: adjust_learning_rate, once an epoch
        weight_decay=1e-4,
        decay_all=True,
    )


PROTOCOLS: dict[str, tuple[Recipe, Settings]] = {
    "200": (_recipe(200), Settings()),
    "800": (_recipe(800), Settings()),
}
PRESETS: dict[str, tuple[Recipe, Settings]] = {
    # Not a protocol: a minute or two on two CPU cores. Queue and key encoder turn over faster, to do so at all. The
    # loss rises at first, while keys take the place of the random vectors in the queue.
    "demo": (
        demo(augmentation="moco", optimizer="sgd", lr=0.08, weight_decay=1e-5),
        Settings(ema=0.95, queue=256, groups=4),
    ),
}
