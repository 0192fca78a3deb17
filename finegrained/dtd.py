"""Describable Textures: 47 attributes, 1,880 images each to fit, to choose and to test on (Cimpoi et al. 2014)."""

from transfer.classification.ssl_transfer import tasks

TASKS = tasks("dtd", "Describable Textures", metric="top1")
