"""ImageNet, all of it: backbone and classifier fine-tuned, by VISSL's configuration."""

from transfer.classification.fine_tuning import vissl_task

TASK = vissl_task(
    "imagenet",
    "ImageNet, fine-tuning on all of it",
    "eval_resnet_8gpu_transfer_in1k_fulltune.yaml",
    epochs=105,
    milestones=(30, 60, 90, 100),
)
