"""One evaluator per metric, fed with the same detections whichever engine made them."""
