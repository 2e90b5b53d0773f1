"""The commands of `python -m bench`: each has `add_parser` and `run`."""
