"""Instance segmentation tasks, one file each."""
