"""Detection engines. An engine trains and predicts; data, verification and numbers are the same for all of them."""
