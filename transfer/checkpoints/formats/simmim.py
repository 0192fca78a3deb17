"""SimMIM's pretraining checkpoints with a Swin transformer of the first version, or with a ViT.

Layout: `{"model"}` with `encoder.`, a Swin transformer under its authors' names with a `mask_token`, and `decoder.`,
one convolution (microsoft/Swin-Transformer: models/simmim.py; microsoft/SimMIM has the same). It is pretrained on
images of 192 pixels with windows of 6 (configs/simmim/simmim_pretrain__swin_base__img192_window6__800ep.yaml), and its
features are computed at that size; its authors fine-tune at 224 with windows of 7, for which they resize the tables of
positions. The ViTs are BEiT's, with one table of relative positions for all blocks and no absolute ones
(models/vision_transformer.py, configs/vit_base__800ep/…). Both take ImageNet's mean and std (data/data_simmim.py).
"""

from transfer.checkpoints.declared import Network, Release, one_of, prefixed
from transfer.checkpoints.formats.beit import INDICES, TABLES
from transfer.checkpoints.formats.swin import BUFFERS, MARKERS, NEEDS, timm_name

_MASK = {"mask_token": "stands for masked patches in pretraining, unused in evaluation"}
_DECODER = {"decoder.": "decoder, which reconstructs pixels"}
_SWIN = prefixed(
    Release(
        name="simmim",
        title="SimMIM, Swin transformer",
        networks={"only": Network("encoder.")},
        behind=_MASK | BUFFERS,
        heads=_DECODER,
        needs=(f"encoder.{NEEDS}",),
        keys=("model", None),
        markers=MARKERS,
        families=("swin",),
        rename=timm_name,
    )
)
_VIT = prefixed(
    Release(
        name="simmim",
        title="SimMIM, ViT",
        networks={"only": Network("encoder.")},
        behind=_MASK | INDICES,
        heads=_DECODER,
        needs=tuple(f"encoder.{table}" for table in TABLES),
        keys=("model", None),
        markers=("blocks.0.norm1.",),
        families=("beit",),
    )
)

FORMAT = one_of("simmim", _SWIN, _VIT)
