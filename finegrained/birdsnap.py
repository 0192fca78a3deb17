"""Birdsnap: 500 bird species, where its photographs can still be obtained (Berg et al. 2014)."""

from transfer.fine_grained import tasks

TASKS = tasks("birdsnap", "Birdsnap", metric="top1")
