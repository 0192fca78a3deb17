"""Birdsnap: 500 bird species, where its photographs can still be obtained (Berg et al. 2014)."""

from transfer.classification.ssl_transfer import tasks

TASKS = tasks("birdsnap", "Birdsnap", metric="top1")
