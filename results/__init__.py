"""Tables, comparisons, statistics and plots of records, and the published numbers beside them. Knows no engine.

In a notebook: `import results; frame = results.load("runs/records")`, one row a run; `results.frame.COLUMNS` says what
its columns hold. Everything that this package prints is made of that frame.
"""

from results.frame import load

__all__ = ["load"]
