"""MAE: the whole autoencoder, its encoder alone, and the classifiers fine-tuned from it.

Layout: `{"model"}`, with `optimizer`, `epoch`, `scaler` and `args` in one's own runs. The encoder is a ViT under timm's
names with fixed sine-cosine positions that are stored, the CLS token's all 0; `decoder_embed.`, `decoder_blocks.`,
`decoder_norm.`, `decoder_pred.`, `decoder_pos_embed` and `mask_token` reconstruct (facebookresearch/mae:
models_mae.py, util/misc.py: save_model; the released `mae_pretrain_*` hold the encoder alone, `mae_visualize_*` all).

Fine-tuned ones have `fc_norm` instead of `norm`: tokens are averaged, *then* normalised, and a classifier follows
(models_vit.py, `--global_pool`). They have seen labels. Positions are resized to the grid, bicubic, when weights are
loaded (util/pos_embed.py: interpolate_pos_embed).
"""

import dataclasses

from transfer.checkpoints.backbone import Lint
from transfer.checkpoints.declared import Network, Release, one_of, prefixed

_DECODER = {
    **dict.fromkeys(
        ("decoder_embed.", "decoder_blocks.", "decoder_norm.", "decoder_pred.", "decoder_pos_embed"),
        "decoder, which reconstructs pixels",
    ),
    "mask_token": "stands for masked patches in the decoder",
}
_MARKERS = ("blocks.0.norm1.",)
_ANYBODYS = (
    "nothing in the file says whose encoder it is: it is read as MAE's, with ImageNet's mean and std, the usual heads "
    "of its size and positions resized to the grid, bicubic; --format dino, moco_v3 or plain say otherwise"
)
_FINE_TUNED = Lint(
    "fine-tuned",
    "the final norm comes behind the average of patches (fc_norm), as in MAE's fine-tuned classifiers: this network "
    "was trained with labels and is no pretrained one; its tokens have no trained norm of their own",
)


def _layout(title: str, needs: tuple[str, ...], lacks: tuple[str, ...], **more: object) -> Release:
    networks = {"only": Network("")}
    return Release("mae", title, networks, needs=needs, lacks=lacks, outer=("",), markers=_MARKERS, **more)  # type: ignore[arg-type]


_DECLARED = one_of(
    "mae",
    prefixed(_layout("MAE, encoder and decoder", ("decoder_embed.",), (), keys=("model", None), heads=_DECODER)),
    prefixed(
        _layout(
            "MAE, fine-tuned classifier",
            ("fc_norm.",),
            (),
            keys=("model",),
            behind={"head.": "classifier, behind the backbone"},
            lints=(_FINE_TUNED,),
        )
    ),
    prefixed(
        _layout(
            "an encoder alone under `model`, as MAE releases it",
            (),
            ("head.", "fc.", "mask_token", "dist_token", "blocks.0.ls1.", "blocks.0.gamma_1"),
            keys=("model",),
            notes=(_ANYBODYS,),
        )
    ),
)
# an encoder alone may be anybody's, and only its name say whose
FORMAT = dataclasses.replace(_DECLARED, told_by_name=True)
