"""Food-101: 75,750 images to fit on, 25,250 to test (Bossard et al. 2014)."""

from transfer.classification.ssl_transfer import tasks

TASKS = tasks("food101", "Food-101", metric="top1")
