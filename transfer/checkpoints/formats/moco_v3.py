"""MoCo v3 pretraining checkpoints with a ResNet.

Layout: `{"epoch", "arch", "state_dict", "optimizer", "scaler"}`; `module.base_encoder.` is trained by gradient,
`module.momentum_encoder.` is its moving average, both torchvision ResNets whose `fc` is a two-layer projector;
`module.predictor.` lies behind the base's projector. Linear evaluation takes the base encoder
(facebookresearch/moco-v3: main_moco.py, moco/builder.py, main_lincls.py). The released `linear-*.pth.tar` are plain
ResNets under `module.`.
"""

from transfer.checkpoints.declared import Network, Release, prefixed

FORMAT = prefixed(
    Release(
        name="moco_v3",
        title="MoCo v3",
        networks={"base": Network("base_encoder."), "momentum": Network("momentum_encoder.")},
        behind={"fc.": "projector, behind the backbone"},
        heads={"predictor.": "predictor, behind the projector"},
        needs=("base_encoder.",),  # others call an average momentum_encoder, too
    )
)
