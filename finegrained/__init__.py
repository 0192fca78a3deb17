"""Fine-grained classification tasks: one file per task. None has been written yet."""
