"""Self-supervised pretraining of ResNets: the MSBReg losses, the views, the methods and the training loop."""
