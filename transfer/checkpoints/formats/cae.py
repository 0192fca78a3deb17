"""CAE's pretraining checkpoints.

Layout: `{"model"}` with `encoder.`, `teacher.`, `pretext_neck.`, `encoder_to_decoder.` and a `mask_token` (lxtGH/CAE:
models/modeling_cae.py). The encoder is BEiT's without relative positions, with a fixed table of sines that is stored
(modeling_finetune.py, build_2d_sincos_position_embedding); it is what is fine-tuned. Its ViT-S has 12 heads. Pixels
have ImageNet's mean and std (scripts/cae_base_800e.sh: --imagenet_default_mean_and_std).
"""

from transfer.checkpoints.declared import Network, Release, prefixed

FORMAT = prefixed(
    Release(
        name="cae",
        title="CAE, encoder and teacher",
        networks={"encoder": Network("encoder."), "teacher": Network("teacher.")},
        behind={"head.": "classifier, behind the backbone"},
        heads={
            "pretext_neck.": "regressor and decoder of the pretraining task",
            "encoder_to_decoder.": "layer between encoder and decoder",
            "encoder_to_decoder_norm.": "norm between encoder and decoder",
            "mask_token": "stands for masked patches in pretraining, unused in evaluation",
        },
        needs=("pretext_neck.",),
        keys=("model", None),
        markers=("blocks.0.norm1.",),
        families=("beit",),
        facts={"heads_of": {384: 12}},
    )
)
