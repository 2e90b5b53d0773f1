"""Real training: how many steps a second, and what the optimizers of the papers reach."""
