"""MoCo v3 pretraining checkpoints, of ResNets and of vision transformers.

Layout: `{"epoch", "arch", "state_dict", "optimizer", "scaler"}`; `module.base_encoder.` is trained by gradient,
`module.momentum_encoder.` is its moving average. A ResNet's projector is called `fc.`, a ViT's `head.`;
`module.predictor.` lies behind the base's projector. Linear evaluation takes the base encoder
(facebookresearch/moco-v3: main_moco.py, moco/builder.py, main_lincls.py). The released `linear-*.pth.tar` are plain
networks under `module.`.

Its ViT-S has **12 heads** of 32 channels, where DeiT's and timm's has 6 of 64 (vits.py, vit_small): the tensors are the
same and another function is computed. ViTs whose patches are cut by several convolutions (`vit_conv_*`) are refused.
Positions are a fixed table of sines and cosines, columns' half behind rows', stored in the file.

What convert_to_deit.py writes, `{"model"}` with timm's names, is a plain ViT that does not say whose it is: `--format
moco_v3` says it, of any network alone.
"""

import dataclasses

from transfer.checkpoints.declared import CLASSIFIERS, Network, Release, one_of, prefixed
from transfer.checkpoints.families import markers

_FULL = prefixed(
    Release(
        name="moco_v3",
        title="MoCo v3",
        networks={"base": Network("base_encoder."), "momentum": Network("momentum_encoder.")},
        behind={"fc.": "projector, behind the backbone", "head.": "projector, behind the backbone"},
        heads={"predictor.": "predictor, behind the projector"},
        needs=("base_encoder.",),  # others call an average momentum_encoder, too
        markers=("layer1.", "blocks.0.norm1."),
        facts={"heads": 12},
    )
)
_ALONE = prefixed(
    Release(
        "moco_v3",
        "MoCo v3, a network alone",
        {"only": Network("")},
        behind=CLASSIFIERS,
        keys=("state_dict", "model", None),
        markers=markers(),
        facts={"heads": 12},
    )
)
FORMAT = dataclasses.replace(one_of("moco_v3", _FULL, _ALONE), recognise=_FULL.recognise, explained=_FULL.explained)
