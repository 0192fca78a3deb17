"""What every room stands on: errors, files written whole, processes, the state and the curve of a training."""
