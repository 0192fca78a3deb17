"""CIFAR-10: 50,000 images of 32 pixels to fit on, 10,000 to test (Krizhevsky 2009)."""

from transfer.classification.ssl_transfer import tasks

TASKS = tasks("cifar10", "CIFAR-10", metric="top1")
