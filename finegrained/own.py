"""A user's own labelled images: a folder of folders or a CSV file, with the protocols of the fine-grained sets."""

from transfer.classification.ssl_transfer import tasks

TASKS = tasks(None, "Own images (--dataset, --image-folder or --csv)", metric="top1")
