"""ImageNet, all of it: backbone and classifier fine-tuned, by VISSL's configuration, or a ViT by MAE's.

MAE's trains in half precision and leaves out what is left of an epoch; here it is float32, and the last batch is
smaller.
BEiT's and iBOT's are missing: they search the rate on ImageNet's validation images and publish no single one.
"""

from transfer.classification.fine_tuning import LayerwiseTuningRecipe, vissl_task
from transfer.protocol import Protocol

_CODE = "facebookresearch/mae: main_finetune.py"
_PAGE = "facebookresearch/mae: FINETUNE.md"
MAE_BASE = (
    Protocol(LayerwiseTuningRecipe)
    .but(f"{_PAGE}: ViT-B; 5e-4 per 256", epochs=100, batch=1024, lr=0.002)
    .but(f"{_PAGE}: ViT-B", layer_decay=0.65, drop_path=0.1)
    .but(f"{_PAGE}: weight_decay, mixup, cutmix, reprob", weight_decay=0.05, mixup=0.8, cutmix=1.0, erasing=0.25)
    .but(f"{_CODE}: --min_lr, --warmup_epochs", min_lr=1e-6, warmup_epochs=5)
    .but(f"{_CODE}: torch.optim.AdamW's default", betas=(0.9, 0.999))
    .but(f"{_CODE}: --smoothing, --mixup_switch_prob, --aa", smoothing=0.1, switch=0.5, augment="rand-m9-mstd0.5-inc1")
    .but(f"{_CODE}: --clip_grad, none", clip=0.0)
    .but(f"{_CODE}: --global_pool, with a norm of its own", pooling="patches")
    .but("facebookresearch/mae: util/datasets.py", smallest=0.08, crop=224, resize=256, interpolation="bicubic")
)
MAE_LARGE = MAE_BASE.but(f"{_PAGE}: ViT-L; 1e-3 per 256", epochs=50, lr=0.004, layer_decay=0.75, drop_path=0.2)
MAE_HUGE = MAE_LARGE.but(f"{_PAGE}: ViT-H", drop_path=0.3)

TASK = vissl_task(
    "imagenet",
    "ImageNet, fine-tuning on all of it",
    "eval_resnet_8gpu_transfer_in1k_fulltune.yaml",
    epochs=105,
    milestones=(30, 60, 90, 100),
    more={"mae_base": MAE_BASE, "mae_large": MAE_LARGE, "mae_huge": MAE_HUGE},
)
