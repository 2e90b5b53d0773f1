"""Options that several commands have."""

import argparse
from pathlib import Path

import torch

from torchclip.backend import unavailable_reason


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
