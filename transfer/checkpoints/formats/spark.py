"""SparK's pretraining checkpoints with their decoder, of ResNets and of ConvNeXts.

Layout: `{"module", "arch", "input_size", "epoch", "optimizer", "args", "performance_desc", "is_pretrain"}`
(keyu-tian/SparK: pretrain/utils/misc.py); in `module`, `sparse_encoder.sp_cnn.` is a ResNet under timm's names without
`fc`, or a ConvNeXt under its authors' names without final norm (pretrain/models/convnext.py), whose convolutions skip
masked places; on whole images they are ordinary ones (pretrain/encoder.py). The rest fills the maps, decodes, or is
unused (pretrain/spark.py); `config` says how. Released as `*_withdecoder_1kpretrained_spark_style.pth`.

The backbones alone (`resnet50_1kpretrained_timm_style.pth`, `convnextS_1kpretrained_official_style.pth`) are a plain
ResNet and a ConvNeXt under its authors' names, and read as those.
"""

import torch

from transfer.checkpoints.declared import Network, Release, prefixed
from transfer.checkpoints.formats.convnext import MARKERS, fitted, timm_name, with_state

_UNUSED = "pixels' mean and std and a black image, unused"


def own_name(name: str) -> str:
    """A ConvNeXt's name as timm has it; a ResNet's is that already."""
    return timm_name(name) if name.startswith(("downsample_layers.", "stages.", "norm.")) else name


_RELEASE = Release(
    name="spark",
    title="SparK, encoder and decoder",
    networks={"only": Network("sparse_encoder.sp_cnn.")},
    heads={
        "dense_decoder.": "decoder, which reconstructs pixels",
        "densify_norms.": "norms of the maps before the decoder",
        "densify_projs.": "projections of the maps before the decoder",
        "mask_tokens.": "stand for masked places of the maps",
        **dict.fromkeys(("imn_m", "imn_s", "norm_black"), _UNUSED),
    },
    keys=("module", None),
    markers=("layer1.", *MARKERS),
    families=("resnet", "convnext"),
    rename=own_name,
)


def _fitted(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return fitted(state) if any(name.startswith("stages.") for name in state) else state


FORMAT = with_state(prefixed(_RELEASE), _fitted)
