"""DINO's full training checkpoints with a ResNet.

Layout: `{"student", "teacher", "optimizer", "epoch", "args", "dino_loss", "fp16_scaler"}`; in both networks
`module.backbone.` is a torchvision ResNet without `fc` and `module.head.` the projection head (facebookresearch/dino:
main_dino.py, utils.py: MultiCropWrapper). The teacher is the student's moving average and the one that its authors
evaluate (eval_linear.py: `--checkpoint_key teacher`); "module." is there because batch normalisation makes them wrap
it, too, and its loaders allow for its absence. `args` is an argparse Namespace. The released
`dino_resnet50_pretrain.pth` holds the backbone alone and is a plain ResNet (hubconf.py).
"""

from transfer.checkpoints.declared import Network, Release, prefixed

FORMAT = prefixed(
    Release(
        name="dino",
        title="DINO, student and teacher",
        networks={"teacher": Network("backbone.", "teacher"), "student": Network("backbone.", "student")},
        heads={"head.": "projection head, behind the backbone", "dino_loss": "running centre of the teacher's outputs"},
        keys=(),
    )
)
