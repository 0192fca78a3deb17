"""VISSL's model zoo, and what its scripts convert it to."""

from collections.abc import Callable

import torch
from checkpoint_files import (
    State,
    Tree,
    bare_norm,
    filled,
    mlp,
    slow_copy,
    training_state,
    under,
    width_of,
    without_fc,
)

from releases import Refusal, Release
from releases.caffe2 import uncounted
from releases.detectron2 import name_in_detectron2

TRUNK = ("classy_state_dict", "base_model", "model", "trunk")


def no_tensors(state: State) -> State:
    return {}


def simclr_head(state: State) -> State:
    width = width_of(state)
    return under("0.0.clf.", mlp("", width, width)) | under("0.1.clf.", mlp("", width, 128))


def jigsaw_head(state: State) -> State:
    first = mlp("0.0.clf.", width_of(state), 1000) | bare_norm("0.0.clf.1.", 1000)
    return first | mlp("0.2.clf.", 9000, 2000)


def pirl_head(state: State) -> State:
    width = width_of(state)
    return mlp("0.0.clf.", width, 128) | mlp("0.2.clf.", 1152, 128) | mlp("1.clf.", width, 128)


def swav_head(state: State) -> State:
    projection = mlp("0.projection_head.", width_of(state), 2048, 128, between_bn=True)
    return projection | {"0.prototypes0.weight": filled(3000, 128)}


def barlow_head(state: State) -> State:
    layers = mlp("0.0.clf.", width_of(state), 8192, bias=False) | bare_norm("0.0.clf.1.", 8192)
    layers |= mlp("0.1.clf.", 8192, 8192, bias=False) | bare_norm("0.1.clf.1.", 8192)
    return layers | mlp("0.2.clf.", 8192, 8192, bias=False)


def memory(state: State) -> State:
    """NCELossWithMemory: the parameters of the sampling, the memory bank, the alias tables."""
    bank = {"params": filled(3), "memory": filled(1281167, 128)}
    return under("nce_average.", bank | {"multinomial.prob": filled(1281167)})


def moco_loss(state: State) -> State:
    network = under("trunk._feature_blocks.", slow_copy(without_fc(state))) | under("heads.", simclr_head(state))
    return {"queue": filled(128, 65536), "queue_ptr": torch.zeros(1, dtype=torch.int64)} | under(
        "moco_encoder.", network
    )


def swav_loss(state: State) -> State:
    return {"num_iteration": torch.zeros(1, dtype=torch.int32)}


def task(state: State, head: State, loss: State, blocks: str = "_feature_blocks.") -> Tree:
    """ClassificationTask.get_classy_state."""
    model = {"trunk": under(blocks, without_fc(state)), "heads": head}
    counts = {name: filled(2) for name in ("total_correct_predictions", "curr_correct_predictions_k")}
    meter = {"name": "accuracy", "top_k": [1, 5], "total_sample_count": filled(1), **counts}
    return {
        "train": True,
        "base_model": {"model": model, "meta": {"trunk": {}, "heads": []}},
        "meters": [{0: {"state": meter}}],
        "optimizer": {"optim": training_state(state)["optimizer"]},
        "phase_idx": 200,
        "train_phase_idx": 199,
        "num_updates": 62400,
        "losses": [7.5, 7.25],
        "hooks": {"LogLossMetricsHook": {}, "CheckpointHook": {}},
        "loss": loss,
        "train_dataset_iterator": {},
    }


def checkpoint(state: State, head: Callable[[State], State], loss: Callable[[State], State]) -> Tree:
    return {
        "phase_idx": 200,
        "iteration": 62400,
        "loss": loss(state),
        "iteration_num": 311,
        "train_phase_idx": 199,
        "classy_state_dict": task(state, head(state), loss(state)),
        "type": "consolidated",
    }


def with_ema(state: State) -> Tree:
    """Saved by the hook EMA_MODEL, with mixed precision."""
    tree = checkpoint(state, simclr_head, no_tensors)
    model = {"trunk": under("_feature_blocks.", slow_copy(without_fc(state))), "heads": simclr_head(state)}
    tree["classy_state_dict"] |= {
        "amp": {"scale": 65536.0, "_growth_tracker": 5},
        "ema_model": {"model": model, "meta": {"trunk": {}, "heads": []}},
        "ema_meters": [{0: {"state": {"name": "accuracy", "total_sample_count": filled(1)}}}],
    }
    return tree


def linear_evaluation(state: State) -> Tree:
    width = width_of(state)
    head = bare_norm("0.channel_bn.", width) | mlp("0.clf.clf.", width, 1000)
    return {
        "loss": {},
        "classy_state_dict": task(state, head, {}, "base_model._feature_blocks."),
        "phase_idx": 28,
        "type": "consolidated",
    }


def consolidated(state: State) -> Tree:
    """Stitched together from shards: weights alone."""
    model = {"trunk": under("_feature_blocks.", without_fc(state)), "heads": {}}
    return {"type": "consolidated", "classy_state_dict": {"base_model": {"model": model}}}


def converted(state: State) -> Tree:
    backbone = {name: value.numpy() for name, value in uncounted(state).items()}
    head = {"fc.weight": filled(128, width_of(state)).numpy(), "fc.bias": filled(128).numpy()}
    return {"model_state_dict": under("_feature_blocks.", backbone) | head}


def colorization(state: State) -> Tree:
    blocks = under("_feature_blocks.", uncounted(state) | {"conv1.weight": filled(64, 1, 7, 7)})
    return {"model_state_dict": blocks}


def to_detectron2(state: State) -> Tree:
    model = {name_in_detectron2(name): value for name, value in uncounted(state).items()}
    return {"model": model, "matching_heuristics": True}


def _release(title: str, build: Callable[[State], Tree], **more) -> Release:
    facts = {"place": TRUNK, "key": "_feature_blocks.{}".format, "branch": "online", "format": "vissl"}
    facts |= {
        "source": "facebookresearch/vissl: MODEL_ZOO.md, vissl/hooks/log_hooks.py, vissl/models/base_ssl_model.py"
    }
    return Release(title=title, build=build, **facts | more)


def _zoo(title: str, head: Callable[[State], State], loss: Callable[[State], State] = no_tensors, **more) -> Release:
    return _release(title, lambda state: checkpoint(state, head, loss), **more)


RELEASES = {
    "vissl_simclr": _zoo("VISSL SimCLR", simclr_head, archs=("resnet50", "resnet101")),
    "vissl_w2": _zoo("VISSL SimCLR, SwAV, NPID++: RN50-w2, -w4", simclr_head, archs=("resnet50w2", "resnet50w4")),
    "vissl_jigsaw": _zoo("VISSL Jigsaw", jigsaw_head, container="legacy"),
    "vissl_rotnet": _zoo("VISSL RotNet, ClusterFit", lambda state: mlp("0.clf.", width_of(state), 4)),
    "vissl_pirl": _zoo("VISSL PIRL", pirl_head, memory),
    "vissl_npid": _zoo("VISSL NPID, NPID++", lambda state: mlp("0.clf.", width_of(state), 128), memory),
    "vissl_swav": _zoo("VISSL SwAV", swav_head, swav_loss),
    "vissl_moco": _zoo("VISSL MoCo v2", simclr_head, moco_loss, others=("momentum",)),
    "vissl_barlow": _zoo("VISSL Barlow Twins", barlow_head),
    "vissl_supervised": _zoo("VISSL supervised", lambda state: mlp("0.clf.", width_of(state), 1000)),
    "vissl_training": _release("VISSL, with a moving average (EMA_MODEL)", with_ema, others=("ema",)),
    "vissl_linear": _release(
        "VISSL, linear evaluation",
        linear_evaluation,
        key="base_model._feature_blocks.{}".format,
        source="facebookresearch/vissl: vissl/models/trunks/feature_extractor.py",
    ),
    "vissl_consolidated": _release(
        "VISSL, consolidated from shards",
        consolidated,
        source="facebookresearch/vissl: vissl/utils/checkpoint.py",
    ),
    "vissl_numpy": _release(
        "VISSL converted_vissl_….torch (NPID, Goyal '19, semi-supervised)",
        converted,
        format="vissl_converted",
        place=("model_state_dict",),
        branch="only",
        source="manuelknott/ssl_eval_protocols: models/npid.py",
        counters=False,
    ),
    "vissl_blocks": _release(
        "VISSL trunk alone, in safetensors",
        lambda state: under("_feature_blocks.", without_fc(state)),
        format="vissl_converted",
        place=(),
        branch="only",
        source="facebookresearch/vissl: vissl/models/trunks/resnext.py",
        container="safetensors",
    ),
    "vissl_to_torchvision": _release(
        "VISSL, converted by its convert_vissl_to_torchvision.py",
        without_fc,
        format="torchvision",
        place=(),
        key=str,
        branch="only",
        source="facebookresearch/vissl: extra_scripts/convert_vissl_to_torchvision.py",
    ),
    "vissl_to_detectron2": _release(
        "VISSL, converted by its convert_vissl_to_detectron2.py",
        to_detectron2,
        format="detectron2",
        place=("model",),
        key=name_in_detectron2,
        branch="only",
        source="facebookresearch/vissl: extra_scripts/convert_vissl_to_detectron2.py",
        counters=False,
    ),
}
REFUSED = {
    "vissl_colorization": Refusal(
        "VISSL Colorization (Goyal '19)",
        colorization,
        ("takes 1 input channels",),
        "facebookresearch/vissl: configs/config/benchmark/linear_image_classification/imagenet1k/models",
        format="vissl_converted",
    ),
}
