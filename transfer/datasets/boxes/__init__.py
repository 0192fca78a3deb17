"""Detection and segmentation sets: VOC, COCO, masks."""
