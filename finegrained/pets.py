"""Oxford-IIIT Pets: 37 breeds, 3,680 images to fit on, 3,669 to test (Parkhi et al. 2012)."""

from transfer.classification.ssl_transfer import tasks

TASKS = tasks("pets", "Oxford-IIIT Pets", metric="mean_per_class")
