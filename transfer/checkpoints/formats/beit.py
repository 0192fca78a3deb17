"""BEiT and BEiT v2, pretrained and fine-tuned, and data2vec's vision transformers, which have their layout.

Layout: `{"model"}`, with DeepSpeed `{"module"}`, data2vec also `model_ema`. A transformer whose queries and values have
biases (`q_bias`, `v_bias`) and keys none, with layer scales `gamma_1` and `gamma_2`; pretrained, one table
`rel_pos_bias.relative_position_bias_table` for all blocks, a `norm`, a `mask_token` and `lm_head.`; fine-tuned, a table
in every block, `fc_norm` behind the average of patches, and `head.` (microsoft/unilm: beit/modeling_pretrain.py,
modeling_finetune.py; beit2/modeling_pretrain.py, whose `cls_pt_layers.` are used in pretraining alone;
facebookresearch/data2vec_vision: beit/run_cyclical.py, utils.py, whose authors fine-tune `model`).

BEiT's files of ImageNet-22K take pixels with the mean .5 and the std .5 (beit/README.md), BEiT v2 and data2vec with
ImageNet's; a fine-tuned file of v2 cannot be told from one of v1 and is read as such, which a lint says.
"""

from transfer.checkpoints.backbone import InputSpec, Lint
from transfer.checkpoints.declared import Network, Release, one_of, prefixed, with_entries

TABLES = ("rel_pos_bias.", "blocks.0.attn.relative_position_bias_table")
INDICES = dict.fromkeys(
    ("rel_pos_bias.relative_position_index", *(f"blocks.{n}.attn.relative_position_index" for n in range(64))),
    "places in the table of relative positions, which follow from the grid",
)
_HEADS = {
    "lm_head.": "predicts visual words, behind the backbone",
    "mask_token": "stands for masked patches in pretraining, unused in evaluation",
    "cls_pt_layers.": "blocks of BEiT v2 that are used in pretraining alone",
    "head.": "classifier, behind the backbone",
}
HALF = InputSpec(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
FIRST = Lint(
    "assumed-normalisation",
    "read as BEiT's first version, whose pixels have the mean .5 and the std .5; a fine-tuned BEiT v2 and a data2vec "
    "have the same tensors and take ImageNet's mean and std",
)


def _release(title: str, networks: dict[str, Network], **more: object) -> Release:
    return Release(
        name="beit",
        title=title,
        networks=networks,
        heads=_HEADS,
        behind=INDICES,
        markers=("blocks.0.norm1.",),
        families=("beit",),
        general=-1,
        **more,  # type: ignore[arg-type]
    )


_ONE = {"only": Network("")}
_BOTH = {"model": Network("", "model"), "ema": Network("", "model_ema")}
_KEYS = ("model", "module")  # bare files of timm's are plain ones
FORMAT = one_of(
    "beit",
    prefixed(_release("BEiT v2, pretrained", _ONE, keys=(*_KEYS, None), needs=("cls_pt_layers.",))),
    with_entries(prefixed(_release("data2vec, with its moving average", _BOTH, keys=(), needs=TABLES)), "model_ema"),
    prefixed(_release("BEiT", _ONE, keys=_KEYS, needs=TABLES, input=HALF, lints=(FIRST,))),
    prefixed(_release("BEiT, pretrained", _ONE, keys=(None,), needs=("lm_head.",), input=HALF, lints=(FIRST,))),
)
