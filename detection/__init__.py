"""Detection tasks: one file per task, one `run_<task>.sh` beside it."""
