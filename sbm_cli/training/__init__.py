"""Training: data, mixtures, losses and the loop."""
