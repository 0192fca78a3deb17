"""MSN's training checkpoints.

Layout: `{"encoder", "target_encoder", "prototypes", "opt", "epoch", …}`; both encoders are ViTs under timm's names with
`module.` before them, a projection head `fc.` and perhaps a prediction head `pred.` (facebookresearch/msn:
src/msn_train.py, src/deit.py). The target encoder, the other's moving average, is what its evaluation reads
(logistic_eval.py, linear_eval.py). timm's own conversion takes `encoder`: files of timm's are another network.

Positions are resized by the factor of the sides, bicubic, for square images (src/deit.py, interpolate_pos_encoding).
That is the same as to the grid, except that rounding makes its code stop at a few grids, as at 29² from 14². Its
evaluations take the CLS token *before* the final norm (forward_blocks): that feature is called `cls-raw` here.
"""

from transfer.checkpoints.declared import Network, Release, prefixed, with_entries

FORMAT = with_entries(
    prefixed(
        Release(
            name="msn",
            title="MSN, encoder and target encoder",
            networks={"target": Network("", "target_encoder"), "online": Network("", "encoder")},
            behind={
                "fc.": "projection head, behind the backbone",
                "pred.": "prediction head, behind the backbone",
            },
            heads={"prototypes": "prototypes, behind the projection head"},
            keys=(),
            markers=("blocks.0.norm1.",),
        )
    ),
    "prototypes",
    "target_encoder",
)
