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

Vision transformers are timm's, resized by timm's rule, except in two methods, whose positions are fixed sines and
cosines: MoCo v3's and MAE's have 12 heads in the sizes tiny, small and base (solo/backbones/vit/vit_mocov3.py,
vit_mae.py), where timm's tiny has 3 and its small 6. No shape shows that; the fixed table does.
"""

import dataclasses

from transfer.checkpoints.declared import CLASSIFIERS, LIGHTNING, Network, Release, one_of, prefixed, signed
from transfer.checkpoints.families import markers
from transfer.checkpoints.families.vit import order_of_sines
from transfer.checkpoints.rules import Extracted, Tree

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
    "decoder.": "MAE's decoder, which reconstructs pixels",
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
            facts={"positions": "antialias"},
            general=1,
        )

    both = {"online": Network(online), "momentum": Network(momentum)}
    one = {"only": Network(online)}
    return (
        release("solo-learn, method with a momentum network", _ONLINE, (momentum,), both),
        release("solo-learn, pretraining", _ONLINE, ("projector.", "head.", "decoder."), one),
        release("solo-learn, linear evaluation", "classifier, behind the backbone", (), one),
    )


_LAYOUTS = (*_layouts("backbone.", "momentum_backbone."), *_layouts("encoder.", "momentum_encoder."))
# `classifier.` is a name that others use as well
_SIGNS = ("momentum_backbone.", "momentum_encoder.layer1.", "momentum_projector.", "momentum_head.", "classifier.")
_DECLARED = one_of("solo_learn", *(prefixed(layout) for layout in _LAYOUTS))


def read(tree: Tree, branch: str | None) -> Extracted:
    """As declared, with the heads of those ViTs whose table of positions tells their method."""
    found = _DECLARED.read(tree, branch)
    method = order_of_sines(found.state)
    if not method or found.state["pos_embed"].shape[2] >= 1024:  # large and huge ones have the usual 16
        return found
    note = f"positions are fixed, as solo-learn's {method} has them: its ViTs have 12 heads"
    return dataclasses.replace(found, facts={**found.facts, "heads": 12}, notes=(*found.notes, note))


FORMAT = signed(dataclasses.replace(_DECLARED, read=read), _SIGNS)
