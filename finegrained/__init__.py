"""Fine-grained classification tasks: one file per set."""
