"""CUB-200-2011: 200 bird species, 5,994 images to fit on, 5,794 to test (Wah et al. 2011)."""

from transfer.classification.ssl_transfer import tasks

TASKS = tasks("cub200", "CUB-200-2011", metric="top1")
