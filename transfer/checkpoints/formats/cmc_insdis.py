"""InsDis and MoCo as the CMC repository implements them.

Layout: `{"opt", "model", "contrast", "optimizer", "epoch"}`, for MoCo also "model_ema"; in both networks
`encoder.module.` is a ResNet-50 under torchvision's names whose `fc` projects to 128, and "contrast" holds the
negatives (HobbitLong/CMC: train_moco_ins.py, models/resnet.py, NCE/NCEAverage.py). `opt` is an argparse Namespace.
Linear evaluation takes "model" (eval_moco_ins.py). Which of these entries the released files kept is not known.
The 2× and 4× forms widen every stage but not the stem, which no other ResNet does, and are refused by their shapes.
"""

from transfer.checkpoints.declared import Network, Release, one_of, prefixed

_BEHIND = {"fc.": "projection head, behind the backbone"}

FORMAT = one_of(
    "cmc_insdis",
    prefixed(
        Release(
            name="cmc_insdis",
            title="InsDis or MoCo of the CMC repository",
            networks={"model": Network("encoder.module.", "model"), "ema": Network("encoder.module.", "model_ema")},
            behind=_BEHIND,
            heads={"contrast": "memory of negatives"},
            keys=(),
            outer=("",),
        )
    ),
    prefixed(
        Release(
            name="cmc_insdis",
            title="InsDis or MoCo of the CMC repository, one network alone",
            networks={"only": Network("encoder.module.")},
            behind=_BEHIND,
            keys=(None,),
            outer=("",),
            notes=("nothing in the file says whether this is the trained network or MoCo's moving average of it",),
        )
    ),
)
