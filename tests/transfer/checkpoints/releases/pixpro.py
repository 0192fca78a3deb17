"""PixPro: as published and as training writes it."""

from argparse import Namespace

from checkpoint_files import State, Tree, bare_norm, filled, slow_copy, training_state, under, width_of, without_fc

from releases import Release


def _convolution(prefix: str, inputs: int, outputs: int) -> State:
    return {f"{prefix}weight": filled(outputs, inputs, 1, 1), f"{prefix}bias": filled(outputs)}


def _head(inputs: int) -> State:
    return _convolution("linear1.", inputs, 4096) | bare_norm("bn1.", 4096) | _convolution("linear2.", 4096, 256)


def model(state: State, instance: bool) -> State:
    backbone, width = without_fc(state), width_of(state)
    found = under("encoder.", backbone) | under("encoder_k.", slow_copy(backbone))
    found |= under("projector.", _head(width)) | under("projector_k.", _head(width))
    found |= _convolution("value_transform.", 256, 256)
    if instance:
        found |= under("projector_instance.", _head(width)) | under("projector_instance_k.", _head(width))
        found |= under("predictor.", _head(256))
    return under("module.", found)


def build_training(state: State) -> Tree:
    opt = Namespace(arch="resnet50", pixpro_p=2.0, aug="BYOL", lr_decay_epochs=[120, 160])
    scheduler = {"multiplier": 100.0, "after_scheduler": {"T_max": 1000}}
    amp = {"loss_scaler0": {"loss_scale": 65536.0, "unskipped": 17}}
    return {"opt": opt, "model": model(state, True), **training_state(state), "scheduler": scheduler, "amp": amp}


def _release(title: str, build, source: str) -> Release:
    return Release(
        title=title,
        format="pixpro",
        build=build,
        place=("model",),
        key="module.encoder.{}".format,
        source=source,
        branch="online",
        others=("momentum",),
    )


RELEASES = {
    "pixpro": _release(
        "PixPro",
        lambda state: {"model": model(state, False)},
        "zdaxie/PixPro: publish_model.py, contrast/models/PixPro.py",
    ),
    "pixpro_training": _release(
        "PixPro with instance branch, training checkpoint", build_training, "zdaxie/PixPro: main_pretrain.py"
    ),
}
