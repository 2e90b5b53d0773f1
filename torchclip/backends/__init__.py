"""What runs a step: the choice among backends, and each of them from Python."""
