"""FGVC Aircraft: 100 variants, 3,334 images to fit on, 3,333 to choose on, 3,333 to test (Maji et al. 2013)."""

from transfer.classification.ssl_transfer import tasks

TASKS = tasks("aircraft", "FGVC Aircraft", metric="mean_per_class")
