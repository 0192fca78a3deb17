"""I-JEPA's training checkpoints.

Layout: `{"encoder", "predictor", "target_encoder", "opt", "scaler", "epoch", …}`; both encoders are ViTs under timm's
names, with `module.` before them and without a CLS token (facebookresearch/ijepa: src/train.py,
src/models/vision_transformer.py). The paper evaluates the average of the target encoder's patches (arXiv 2301.08243,
app. A.2). timm's and transformers' own conversions take `encoder`: files of theirs are another network.

Its code resizes positions as if the first of them were a CLS token's, and what is left then fits no square: it stops at
any other number of patches than the training's (interpolate_pos_encoding). Here the table is resized to the grid,
bicubic, at other sizes.
"""

from transfer.checkpoints.declared import Network, Release, prefixed, with_entries

FORMAT = with_entries(
    prefixed(
        Release(
            name="ijepa",
            title="I-JEPA, encoder and target encoder",
            networks={"target": Network("", "target_encoder"), "online": Network("", "encoder")},
            heads={"predictor": "predictor of masked blocks, behind the encoder"},
            keys=(),
            markers=("blocks.0.norm1.",),
            notes=(
                "the authors' code takes images of the training size alone; at others the table of positions is "
                "resized to the grid, bicubic",
            ),
        )
    ),
    "predictor",
    "target_encoder",
)
