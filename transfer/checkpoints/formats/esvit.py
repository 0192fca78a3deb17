"""EsViT's full training checkpoints with a Swin transformer.

Layout: `{"student", "teacher", "optimizer", "epoch", "args", "dino_loss", "fp16_scaler"}` as DINO's, but no `backbone.`
stands before the network's names: its heads are submodules of it, `head.` of views and `head_dense.` of regions
(microsoft/esvit: main_esvit.py, models/swin_transformer.py). `module.` stands before the student's names, and before
the teacher's where heads have batch normalisation. The teacher is the student's moving average and the one that its
authors evaluate (eval_linear.py: `--checkpoint_key teacher`). Names are those of the Swin transformers' authors, and
norms have eps 1e-6, not Swin's 1e-5 (get_cls_model); indices of positions are stored, masks are not.

Its ResNets are checkpoints like DINO's; CvT and ViL are other networks and refused.
"""

from transfer.checkpoints.declared import Network, Release, prefixed
from transfer.checkpoints.formats.swin import BUFFERS, MARKERS, NEEDS, timm_name

_HEADS = {"head.": "projection head of views, behind the backbone", "head_dense.": "projection head of regions"}
FORMAT = prefixed(
    Release(
        name="esvit",
        title="EsViT, student and teacher",
        networks={"teacher": Network("", "teacher"), "student": Network("", "student")},
        behind=_HEADS | BUFFERS,
        heads={"dino_loss": "running centres of the teacher's outputs"},
        needs=(NEEDS,),
        keys=(),
        markers=MARKERS,
        families=("swin",),
        rename=timm_name,
        facts={"eps": 1e-6},
    )
)
