"""Self-supervised pretraining of encoders: the MSBReg losses, the views, the methods and the training loop."""
