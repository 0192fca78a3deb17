"""Instance segmentation tasks: one file per task. None has been written yet."""
