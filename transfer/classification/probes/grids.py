"""Grids that published protocols search: values of recipes, so in a file that imports nothing."""

from __future__ import annotations

# logspace(-6, 5, 45): linusericsson/ssl-transfer, linear.py
PENALTIES = tuple(10 ** (quarter / 4 - 6) for quarter in range(45))
# VISSL's VOC07 configuration, SVM.costs
COSTS = (0.01, 0.1, 1.0, 2.0, 5.0, 10.0, 15.0, 20.0, 50.0, 100.0, 1000.0)
