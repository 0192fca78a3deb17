"""Contact sheets, what went wrong, curves."""
