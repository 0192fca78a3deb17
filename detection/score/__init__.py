"""Average precision as VOC and as COCO measure it."""
