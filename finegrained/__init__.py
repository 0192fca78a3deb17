"""Fine-grained classification tasks: the sets of one table, and iNaturalist."""
