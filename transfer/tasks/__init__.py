"""Frozen-feature tasks: one file per task."""
