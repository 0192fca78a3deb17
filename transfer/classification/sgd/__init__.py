"""Published SGD protocols: a linear layer on a frozen trunk, or fine-tuning."""
