"""MoCo v1 and v2 pretraining checkpoints, and those of PCL v1 and v2 and AlignUniform, which keep MoCo's layout.

Layout: `{"epoch", "arch", "state_dict", "optimizer"}`; the networks are `module.encoder_q.` (trained by gradient) and
`module.encoder_k.` (its moving average), both torchvision ResNets whose `fc` is the projection head; `module.queue`
and `module.queue_ptr` are the negatives. Linear evaluation and Detectron2 transfer take the query encoder
(facebookresearch/moco: main_moco.py, main_lincls.py, detection/convert-pretrain-to-detectron2.py).

PCL differs in the length of the queue alone (salesforce/PCL: pcl/builder.py, main_pcl.py, eval_cls_imagenet.py), and
nothing in a file tells it from MoCo. AlignUniform has MoCo v2's head and keeps a constant label as
`module.scalar_label` if the contrastive loss was among its losses (SsnL/moco_align_uniform: moco/builder.py); its
`_with_linear_clf` files are plain ResNets (hubconf.py there).
"""

from transfer.checkpoints.declared import Network, Release, prefixed

FORMAT = prefixed(
    Release(
        name="moco",
        title="MoCo v1 or PCL v1 (linear head)",
        variants={"encoder_q.fc.2.": "MoCo v2, PCL v2 or AlignUniform (two-layer head)"},
        networks={"query": Network("encoder_q."), "key": Network("encoder_k.")},
        behind={"fc.": "projection head, behind the backbone"},
        heads={
            "queue": "queue of negatives",
            "queue_ptr": "position in the queue of negatives",
            "scalar_label": "constant label of the contrastive loss",
        },
        needs=("encoder_q.",),  # others call an average encoder_k, too
    )
)
