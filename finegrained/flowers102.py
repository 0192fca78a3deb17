"""Oxford 102 Flowers: 1,020 images to fit on, 1,020 to choose on, 6,149 to test (Nilsback and Zisserman 2008)."""

from transfer.classification.ssl_transfer import tasks

TASKS = tasks("flowers102", "Oxford 102 Flowers", metric="mean_per_class")
