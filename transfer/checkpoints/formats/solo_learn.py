"""solo-learn: checkpoints of Lightning from pretraining and linear evaluation, all of its methods.

Layout: `{"epoch", "global_step", "pytorch-lightning_version", "state_dict", "loops", "callbacks", "optimizer_states",
"lr_schedulers"}`, no hyper-parameters (the configuration lies in `args.json` beside it). In `state_dict`, `backbone.`
is a torchvision ResNet without `fc` (vturrisi/solo-learn: solo/backbones/resnet/resnet.py), `momentum_backbone.` its
moving average, `classifier.` a linear classifier that learns online from detached features
(solo/methods/base.py); heads and buffers are those of solo/methods/*.py. Before December 2021 the two networks were
called `encoder.` and `momentum_encoder.`, which main_linear.py still renames.

Linear evaluation takes the online network, for DINO too: main_linear.py cuts `backbone.` out of every name that holds
it and loads what is left non-strictly, so `momentum_backbone.conv1.weight` becomes a name that nobody has. Checkpoints
of linear evaluation itself hold `backbone.` and `classifier.` alone. The data sets CIFAR-10 and -100 have a 3×3 stem,
which is refused by its shape; STL-10, which keeps the 7×7 stem, is not told from ImageNet.
"""

from transfer.checkpoints.declared import CLASSIFIERS, LIGHTNING, Network, Release, one_of, prefixed, signed
from transfer.checkpoints.families import markers

_ONLINE = "online classifier, trained on detached features"
_HEADS = {
    "momentum_classifier.": "online classifier of the momentum network, trained on detached features",
    "projector.": "projector, behind the backbone",
    "momentum_projector.": "projector of the momentum network",
    "predictor.": "predictor, behind the projector",
    "predictor2.": "All4One's second predictor, behind the projector",
    "head.": "DINO's head, behind the backbone",
    "momentum_head.": "DINO's head of the momentum network",
    "prototypes.": "prototypes, behind the projector",
    "transformer_encoder.": "All4One's transformer over neighbours, behind the projector",
    "pos_enc.": "All4One's positional encoding",
    "whitening.": "W-MSE's whitening, behind the projector",
    "dino_loss_func.": "state of DINO's loss",
    "queue": "queue of features",
    "queue_y": "labels of the features in the queue",
    "queue_ptr": "position in the queue of features",
    "queue_index": "indices of the features in the queue",
    "local_memory_index": "DeepCluster v2's memory of features",
    "local_memory_embeddings": "DeepCluster v2's memory of features",
    "knn.": "features that the online kNN classifier keeps",
    "conversion_map.": "labels of DALI's loader",
} | LIGHTNING


def _layouts(online: str, momentum: str) -> tuple[Release, ...]:
    def release(title: str, classifier: str, needs: tuple[str, ...], networks: dict[str, Network]) -> Release:
        heads = {"classifier.": classifier} | _HEADS
        return Release(
            "solo_learn",
            title,
            networks,
            needs=needs,
            heads=heads,
            behind=CLASSIFIERS,
            outer=("",),
            markers=markers(),
            general=1,
        )

    both = {"online": Network(online), "momentum": Network(momentum)}
    one = {"only": Network(online)}
    return (
        release("solo-learn, method with a momentum network", _ONLINE, (momentum,), both),
        release("solo-learn, pretraining", _ONLINE, ("projector.", "head."), one),
        release("solo-learn, linear evaluation", "classifier, behind the backbone", (), one),
    )


_LAYOUTS = (*_layouts("backbone.", "momentum_backbone."), *_layouts("encoder.", "momentum_encoder."))
# `classifier.` is a name that others use as well
_SIGNS = ("momentum_backbone.", "momentum_encoder.layer1.", "momentum_projector.", "momentum_head.", "classifier.")
FORMAT = signed(one_of("solo_learn", *(prefixed(layout) for layout in _LAYOUTS)), _SIGNS)
