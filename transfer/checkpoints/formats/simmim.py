"""SimMIM's pretraining checkpoints with a Swin transformer of the first version.

Layout: `{"model"}` with `encoder.`, a Swin transformer under its authors' names with a `mask_token`, and `decoder.`,
one convolution (microsoft/Swin-Transformer: models/simmim.py; microsoft/SimMIM has the same). It is pretrained on
images of 192 pixels with windows of 6 (configs/simmim/simmim_pretrain__swin_base__img192_window6__800ep.yaml), and its
features are computed at that size; its authors fine-tune at 224 with windows of 7, for which they resize the tables of
positions. The ViTs are BEiT's, with positions in every block, and are refused by their names.
"""

from transfer.checkpoints.declared import Network, Release, prefixed
from transfer.checkpoints.formats.swin import BUFFERS, MARKERS, NEEDS, timm_name

FORMAT = prefixed(
    Release(
        name="simmim",
        title="SimMIM, Swin transformer",
        networks={"only": Network("encoder.")},
        behind={"mask_token": "stands for masked patches in pretraining, unused in evaluation"} | BUFFERS,
        heads={"decoder.": "decoder, which reconstructs pixels"},
        needs=(f"encoder.{NEEDS}",),
        keys=("model", None),
        markers=MARKERS,
        families=("swin",),
        rename=timm_name,
    )
)
