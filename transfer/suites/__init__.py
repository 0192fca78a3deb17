"""Many runs in one command: which there are (`suite`), what is done (`plan`), how they are carried out (`pool`)."""
