"""The step that all optimizers share, and what goes with it: persistence, torch.compile, hooks, measurements."""
