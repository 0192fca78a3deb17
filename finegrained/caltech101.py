"""Caltech-101: 101 objects and a background class (Fei-Fei et al. 2004)."""

from transfer.classification.ssl_transfer import tasks

TASKS = tasks("caltech101", "Caltech-101", metric="mean_per_class")
