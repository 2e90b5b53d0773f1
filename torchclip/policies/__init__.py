"""Options applied around an update rule: clipping, step sizes, extensions."""
