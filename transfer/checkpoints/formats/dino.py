"""DINO's full training checkpoints, of ResNets and of vision transformers.

Layout: `{"student", "teacher", "optimizer", "epoch", "args", "dino_loss", "fp16_scaler"}`; in both networks
`backbone.` is a torchvision ResNet without `fc` or a ViT under timm's names, and `head.` the projection head
(facebookresearch/dino: main_dino.py, utils.py: MultiCropWrapper). `module.` stands before the student's names, and
before the teacher's where batch normalisation makes them wrap it, too. The teacher is the student's moving average and
the one that its authors evaluate (eval_linear.py: `--checkpoint_key teacher`). `args` is an argparse Namespace.

The released backbones (`dino_deitsmall16_pretrain.pth`, `dino_resnet50_pretrain.pth`; hubconf.py) hold a network alone
and are plain ones; nothing in them says that their positions are resized by a factor with 0.1 in it
(vision_transformer.py, interpolate_pos_encoding), which decides at other sizes than 224: `--format dino` says it.
"""

import dataclasses

from transfer.checkpoints.declared import Network, Release, one_of, prefixed

_MARKERS = ("layer1.", "blocks.0.norm1.")
_FULL = prefixed(
    Release(
        name="dino",
        title="DINO, student and teacher",
        networks={"teacher": Network("backbone.", "teacher"), "student": Network("backbone.", "student")},
        heads={"head.": "projection head, behind the backbone", "dino_loss": "running centre of the teacher's outputs"},
        keys=(),
        lacks=("dino_head.",),  # DINOv2's: DINO's own is `head.`
        markers=_MARKERS,
        facts={"positions": "offset"},
    )
)
_RELEASED = prefixed(
    Release("dino", "DINO, a backbone alone", {"only": Network("")}, markers=_MARKERS, facts={"positions": "offset"})
)


_EITHER = one_of("dino", _FULL, _RELEASED)
FORMAT = dataclasses.replace(_EITHER, recognise=_FULL.recognise, explained=_FULL.explained)
