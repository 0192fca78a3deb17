"""Classification sets."""
