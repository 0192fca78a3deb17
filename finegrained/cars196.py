"""Stanford Cars: 196 models, 8,144 images to fit on, 8,041 to test (Krause et al. 2013)."""

from transfer.classification.ssl_transfer import tasks

TASKS = tasks("cars196", "Stanford Cars", metric="top1")
