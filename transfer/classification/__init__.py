"""What classification tasks are made of."""
