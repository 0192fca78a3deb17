"""SUN397: 397 scenes, first official partition, 19,850 images each to fit and to test on (Xiao et al. 2010)."""

from transfer.classification.ssl_transfer import tasks

TASKS = tasks("sun397", "SUN397", metric="top1")
