"""MoCo v1 and v2 pretraining checkpoints.

Layout: `{"epoch", "arch", "state_dict", "optimizer"}`; the networks are `module.encoder_q.` (trained by gradient) and
`module.encoder_k.` (its moving average), both torchvision ResNets whose `fc` is the projection head; `module.queue`
and `module.queue_ptr` are the negatives. Linear evaluation and Detectron2 transfer take the query encoder
(facebookresearch/moco: main_moco.py, main_lincls.py, detection/convert-pretrain-to-detectron2.py).
"""

from transfer.prefixed import Network, Release, prefixed

FORMAT = prefixed(
    Release(
        name="moco",
        title="MoCo v1 (linear head)",
        variants={"encoder_q.fc.2.": "MoCo v2 (two-layer head)"},
        networks={"query": Network("encoder_q."), "key": Network("encoder_k.")},
        behind={"fc.": "projection head, behind the backbone"},
        heads={"queue": "queue of negatives", "queue_ptr": "position in the queue of negatives"},
    )
)
