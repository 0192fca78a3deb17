"""MMSelfSup, OpenSelfSup and MMPretrain: training checkpoints and published models that keep `backbone.`.

Layout: `{"meta", "state_dict", …}` as mmcv or mmengine writes it (open-mmlab/mmengine: mmengine/runner/runner.py,
save_checkpoint); `meta` gives library versions, `message_hub` holds HistoryBuffers, which pickle their own methods
and are read as inert stand-ins. `backbone.` is a ResNet under torchvision's names and the network that
tools/model_converters/extract_backbone_weights.py takes; `neck.`, `head.`, queues and memories lie beside it.

- 1.x (open-mmlab/mmselfsup: mmselfsup/models/algorithms, open-mmlab/mmpretrain: mmpretrain/models/selfsup): the moving
  average of backbone and neck is `encoder_k.module.0.`/`.1.` (MoCo, DenseCL), `target_net.module.` (BYOL) or
  `momentum_encoder.module.` (MoCo v3), beside a counter `steps`. The preprocessor's mean and std are not saved.
- 0.x and OpenSelfSup: the averages lack `module.`, and the online network is saved twice, as `backbone.` and as
  `encoder_q.0.`, `online_net.0.`, `base_encoder.0.` or (SimSiam) `encoder.0.`. The second copy is compared with the
  first, and one different number is an error.
- MMPretrain's supervised models: `head.fc.` is the classifier. With EMAHook, `state_dict` holds the averaged weights
  and `ema_state_dict` the others (mmengine/hooks/ema_hook.py swaps them when it saves).

MMPretrain's vision transformers (mmpretrain/models/backbones/vision_transformer.py) call patches
`patch_embed.projection`, blocks `layers.N` with `ln1`, `ln2` and `ffn.layers`, layer scales `attn.gamma1` and
`ffn.gamma2`, and the final norm `ln1`; one that averages patches (`out_type="avg_featmap"`) has `ln2` behind the
average, MAE's fine-tuned ones without an `ln1`. Positions are resized to the grid, bicubic (models/utils/embed.py). Two
have other heads than is usual: MoCo v3's small one 12 (models/selfsup/mocov3.py), told by its fixed positions, and the
`small` of arch_zoo, 768 wide and 8 blocks deep, 8.

Extracted files (`{"state_dict": bare names, "author"}`) are plain ResNets. Deep stems (V1c, V1d) and Sobel input
(DeepCluster, ODC of 0.x) are refused by their tensors. Configurations feed RGB with ImageNet's mean and std.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping

import torch

from transfer.checkpoints.declared import Network, Release, one_of, prefixed, signed
from transfer.checkpoints.families.vit import order_of_sines
from transfer.checkpoints.rules import Extracted, Format, Tree, demand_equal, weights_under
from transfer.runtime.errors import CheckpointError

# Second names of the online network, and of the neck behind it.
_TWINS = ("encoder_q.", "online_net.", "base_encoder.", "encoder.")
_AVERAGES = tuple(f"{n}.{m}" for n in ("encoder_k", "target_net", "momentum_encoder") for m in ("module.", ""))

_HEADS = {
    "head.fc.": "classifier, behind the backbone",
    "head.layers.": "classifier, behind the backbone",
    "head.": "head of the pretraining task, behind the backbone",
    "neck.": "neck (projector), behind the backbone",
    "inter_neck_q.": "InterCLR's second neck, behind the backbone",
    "inter_neck_k.": "InterCLR's second neck of the moving average",
    "data_preprocessor.": "normalisation of the pixels",
    "sobel_layer.": "Sobel filter in front of the network",
    "memory_bank.": "memory of features",
    "loss_weight": "weights of clusters in the loss",
    "queue": "queue of negatives",
    "queue_ptr": "position in the queue of negatives",
    "queue2": "DenseCL's queue of dense negatives",
    "queue2_ptr": "position in DenseCL's queue of dense negatives",
    **{f"{twin}0.": "the same tensors as under backbone., saved a second time (compared)" for twin in _TWINS},
    **{f"{twin}1.": "neck (projector), behind the backbone" for twin in _TWINS},
    **{f"{average}1.": "neck of the moving average" for average in _AVERAGES},
    **{f"{average.removesuffix('module.')}steps": "updates of the moving average" for average in _AVERAGES},
    # beside the state dict
    "message_hub": "log of the training loop",
    "hook_msgs": "log of the training loop",
    "param_schedulers": "state of the training loop, not of the network",
    "ema_state_dict": "the weights before averaging; EMAHook saves the averaged ones as state_dict",
}


# What says that a file is OpenMMLab's, where `meta` does not.
_SIGNS = (
    *(
        "data_preprocessor.",
        "neck.",
        "sobel_layer.",
        "memory_bank.",
        "loss_weight",
        "head.predictor.",
        "head.fc.",
        "head.layers.head.",
        "layers.0.ln1.",
        "backbone.layers.0.ln1.",
    ),
    *(f"{network}0." for network in (*_AVERAGES, *_TWINS)),
)


def _signature(tree: Tree) -> bool:
    """`meta` gives the version of one of OpenMMLab's libraries."""
    meta = tree.get("meta")
    keys = [key for key in meta if isinstance(key, str)] if isinstance(meta, Mapping) else []
    return any(key.startswith(("mm", "openselfsup")) and key.endswith("_version") for key in keys)


_VIT = re.compile(r"layers\.(\d+)\.(.+)\.(weight|bias)")
_IN_BLOCK = {
    "ln1": "norm1.{}",
    "ln2": "norm2.{}",
    "attn.qkv": "attn.qkv.{}",
    "attn.proj": "attn.proj.{}",
    "ffn.layers.0.0": "mlp.fc1.{}",
    "ffn.layers.1": "mlp.fc2.{}",
    "ffn.w12": "mlp.fc1.{}",
    "ffn.w3": "mlp.fc2.{}",
}
_SCALES = {"attn.gamma1": "ls1.gamma", "ffn.gamma2": "ls2.gamma"}


def timm_name(name: str) -> str | None:
    """`layers.3.ffn.layers.0.0.bias` → `blocks.3.mlp.fc1.bias`; names of a ResNet are left as they are."""
    found = _VIT.fullmatch(name)
    if found is not None:
        target = _SCALES.get(found[2]) if found[3] == "weight" else None
        target = target or _IN_BLOCK.get(found[2], "").format(found[3])
        return f"blocks.{int(found[1])}.{target}" if target else None
    if name.startswith("layers."):
        return None
    if name.startswith(("ln1.", "ln2.")):
        return f"{'norm' if name.startswith('ln1.') else 'fc_norm'}.{name[4:]}"
    return name.replace("patch_embed.projection.", "patch_embed.proj.")


def _layout(title: str, networks: dict[str, Network], needs: tuple[str, ...]) -> Format:
    markers = ("layer1.", "layers.0.ln1.")
    return prefixed(
        Release(
            "mmselfsup",
            title,
            networks,
            needs=needs,
            heads=_HEADS,
            outer=("",),
            markers=markers,
            rename=timm_name,
            families=("resnet", "vit"),
        )
    )


_DECLARED = one_of(
    "mmselfsup",
    *(
        _layout(
            "MMSelfSup, method with a moving average",
            {"online": Network("backbone."), "momentum": Network(f"{average}0.")},
            (f"{average}0.",),
        )
        for average in _AVERAGES
    ),
    _layout("MMPretrain, classifier", {"only": Network("backbone.")}, ("head.fc.",)),
    _layout("MMSelfSup", {"only": Network("backbone.")}, ()),
    _layout("MMPretrain, a ViT alone", {"only": Network("")}, ("layers.0.ln1.",)),
)


def read(tree: Tree, branch: str | None) -> Extracted:
    """The backbone, once every second copy of it has been found equal."""
    extracted = _DECLARED.read(tree, branch)
    weights = weights_under(tree, "state_dict") or tree
    for twin in _TWINS:
        demand_equal(weights, "backbone.", f"{twin}0.")
    state = extracted.state
    if "norm.weight" in state and "fc_norm.weight" in state:
        raise CheckpointError(
            "is a ViT that normalises all tokens and then their average once more, and no network here does both",
            found="ln1 and ln2 behind the last block",
            todo="take the network that was trained with out_type='cls_token', or with final_norm=False",
        )
    heads = _heads(state)
    return dataclasses.replace(extracted, facts={**extracted.facts, "heads": heads}) if heads else extracted


def _heads(state: Mapping[str, torch.Tensor]) -> int | None:
    """Of a ViT that has others than the usual ones of its size."""
    table = state.get("pos_embed")
    if table is None or table.ndim != 3:
        return None
    if table.shape[2] == 384 and order_of_sines(state) == "MoCo v3":
        return 12
    depth = sum(name.endswith(".norm1.weight") for name in state)
    hidden = state.get("blocks.0.mlp.fc1.bias")
    return 8 if (table.shape[2], depth) == (768, 8) and hidden is not None and len(hidden) == 2304 else None


FORMAT = signed(dataclasses.replace(_DECLARED, read=read), _SIGNS, _signature)
