"""Mugs' full training checkpoints.

Layout: `{"student", "teacher", "student_mem", "teacher_mem", "optimizer", "epoch", "args", …}` and the state of each
loss under its own name; `backbone.` is a ViT under timm's names with `relation_blocks.` of its own, used in pretraining
alone; `instance_head.`, `local_group_head.` and `group_head.` lie behind it (sail-sg/mugs: main.py, src/model.py,
src/vision_transformer.py). The teacher is evaluated (eval/eval_knn/eval_knn.py: `--checkpoint_key teacher`). Positions
are learned, and resized as DINO's.
"""

from transfer.checkpoints.declared import Network, Release, prefixed, with_entries

_HEADS = ("instance_head.", "local_group_head.", "group_head.")
_MEMORIES = ("student_mem", "teacher_mem")
_LOSSES = ("instance-sup.", "local-group-sup.", "group-sup.")

FORMAT = with_entries(
    prefixed(
        Release(
            name="mugs",
            title="Mugs, student and teacher",
            networks={"teacher": Network("backbone.", "teacher"), "student": Network("backbone.", "student")},
            behind={"relation_blocks.": "blocks over neighbours, used in pretraining alone"},
            heads={
                **dict.fromkeys(_HEADS, "head, behind the backbone"),
                **dict.fromkeys(_MEMORIES, "memory of features"),
                **dict.fromkeys(_LOSSES, "state of the loss"),
            },
            keys=(),
            markers=("blocks.0.norm1.",),
            facts={"positions": "offset"},
            general=-1,
        )
    ),
    "teacher_mem",
)
