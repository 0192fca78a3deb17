"""W-MSE's repository (whitening, and its own SimCLR and BYOL): checkpoints of the training code.

Layout: the bare state dict of the method. `model.module.` is a torchvision ResNet without `fc`, inside DataParallel;
`head.` the projector; SimCLR adds `bn_last.`, BYOL `pred.` and the moving averages `model_t.module.` and `head_t.`.
The whitening keeps nothing (`track_running_stats=False`). The online network is evaluated; pixels have ImageNet's mean
and std (htdt/self-supervised: train.py, model.py, methods/, test.py, datasets/imagenet.py). Only for ImageNet-100 has
the network torchvision's stem; for CIFAR, STL-10 and Tiny ImageNet it has a 3×3 one and is refused for its shape.
"""

from transfer.checkpoints.declared import Network, Release, prefixed

FORMAT = prefixed(
    Release(
        name="wmse",
        title="W-MSE or SimCLR by htdt/self-supervised",
        variants={"model_t.": "BYOL by htdt/self-supervised"},
        networks={"online": Network("model.module."), "target": Network("model_t.module.")},
        heads={
            "head.": "projector, behind the backbone",
            "head_t.": "projector of the target network",
            "bn_last.": "batch normalisation behind the projector",
            "pred.": "predictor, behind the projector",
        },
        keys=(None,),
        outer=("",),
        needs=("head.",),
    )
)
