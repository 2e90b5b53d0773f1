"""Options that several commands have."""

import argparse
from pathlib import Path

import torch

from bench.markdown.report import Draw
from torchclip.backends.choice import unavailable_reason


def positive_seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a positive number of seconds, got {text}")
    return value


def positive_count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {text}")
    return value


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where the parameters lie")


def add_threads(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--threads", type=positive_count, help="threads for torch and ours (default: torch's own choice)"
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--json",
        type=Path,
        metavar="PATH",
        help="write versions, commit, settings, statistics and raw samples; rows that are there already are kept",
    )
    parser.add_argument("--fresh", action="store_true", help="replace what the file of --json holds")


def add_files(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="written by --json of the other commands")


def drawing(parser: argparse.ArgumentParser) -> Draw:
    """What draws the figures of a file; an error of the command where matplotlib is missing."""
    try:
        from bench.plots.draw import draw
    except ImportError as error:  # a machine that only measures need not have it
        parser.error(f"{error}: pip install matplotlib")
    return draw


def chosen_device(options: argparse.Namespace) -> torch.device:
    """The device of --device, with the threads of --threads.

    Raises:
        ValueError: when our kernels do not run there.
    """
    if getattr(options, "threads", None) is not None:
        torch.set_num_threads(options.threads)
    reason = unavailable_reason("cuda") if options.device == "cuda" else None
    if reason is not None:
        raise ValueError(
            f"--device cuda would time the reference path, since backend='cuda' is not available: {reason}"
        )
    return torch.device(options.device)
