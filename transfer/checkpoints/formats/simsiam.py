"""SimSiam pretraining checkpoints.

Layout: `{"epoch", "arch", "state_dict", "optimizer"}`; `module.encoder.` is a torchvision ResNet whose `fc` is the
three-layer projector, `module.predictor.` lies behind it. There is one network, without a moving average
(facebookresearch/simsiam: main_simsiam.py, simsiam/builder.py, main_lincls.py). The released `model_best.pth.tar` of
linear evaluation are plain ResNets under `module.`.
"""

from transfer.checkpoints.declared import Network, Release, prefixed

FORMAT = prefixed(
    Release(
        name="simsiam",
        title="SimSiam",
        networks={"only": Network("encoder.")},
        behind={"fc.": "projector, behind the backbone"},
        heads={"predictor.": "predictor, behind the projector"},
        needs=("encoder.fc.6.",),  # its last linear layer: others keep an encoder and a predictor, too
    )
)
