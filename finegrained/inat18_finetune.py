"""iNaturalist 2018: backbone and classifier fine-tuned on 8,142 species, by VISSL's configuration."""

from transfer.classification.fine_tuning import vissl, vissl_task

VISSL = vissl(
    "facebookresearch/vissl: eval_resnet_8gpu_transfer_inat18_fulltune.yaml", epochs=24, milestones=(7, 14, 21)
)

TASK = vissl_task("inat18", "iNaturalist 2018, fine-tuning", VISSL)
