"""PixPro pretraining checkpoints.

Layout: `{"model"}` as published, `{"opt", "model", "optimizer", "scheduler", "epoch", "amp"}` as training writes it,
`opt` being an argparse Namespace (zdaxie/PixPro: main_pretrain.py, publish_model.py). Under "model",
`module.encoder.` is trained by gradient and `module.encoder_k.` its moving average, both torchvision ResNets without
`fc`; `module.projector.` and `module.projector_k.` lie behind them, `module.value_transform.` behind the former. With
an instance branch there are `module.projector_instance.`, `module.projector_instance_k.` and `module.predictor.`, too
(contrast/models/PixPro.py). Detection takes the encoder (transfer/detection/convert_pretrain_to_d2.py).
"""

from transfer.checkpoints.declared import Network, Release, prefixed

FORMAT = prefixed(
    Release(
        name="pixpro",
        title="PixPro",
        variants={"projector_instance.": "PixPro with instance branch"},
        networks={"online": Network("encoder."), "momentum": Network("encoder_k.")},
        heads={
            "projector.": "projector, behind the backbone",
            "projector_k.": "projector of the moving average",
            "value_transform.": "pixel propagation, behind the projector",
            "projector_instance.": "projector of the instance branch",
            "projector_instance_k.": "moving average of the instance branch's projector",
            "predictor.": "predictor of the instance branch",
        },
        keys=("model", None),
        needs=("projector_k.",),
    )
)
