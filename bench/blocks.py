"""`python -m bench.blocks`: how fast a step on Triton is for each size of a program, measured in one run.

The winner is what `torchclip/backends/triton/blocks.py` should say for this kind of GPU.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from typing import Any

import torch

import torchclip
from bench.algorithm import ADAMW_ARGUMENTS, SGD_ARGUMENTS
from bench.bandwidth import COPY, WORDS, BandwidthProbe
from bench.clock import clock_of
from bench.environment import describe_environment
from bench.measure import Percentiles, Settings, Timed, interleave, round_ratios
from bench.shapes import SHAPE_SETS, element_count
from bench.text import format_environment
from bench.workload import Workload
from torchclip.backends.choice import served_device, unavailable_reason

STEPS: dict[str, tuple[Callable[..., torch.optim.Optimizer], Any, int]] = {
    "clip_sgd": (torchclip.SGD, SGD_ARGUMENTS, 6),
    "clip_adamw": (torchclip.AdamW, ADAMW_ARGUMENTS, 8),
}
"""Class, arguments, and words that a step moves for each parameter."""


@contextmanager
def using(kind: str, block: Any) -> Iterator[None]:
    """Meanwhile plans are made with this block."""
    from torchclip.backends.triton.blocks import BLOCKS

    before = BLOCKS[kind]
    BLOCKS[kind] = block
    try:
        yield
    finally:
        BLOCKS[kind] = before


def compare(set_name: str, step: str, blocks: Sequence[Any], device: torch.device, settings: Settings) -> list[str]:
    """Times a step with each block in turn, and the copy beside them; a line for each, the fastest first."""
    optimizer, arguments, words = STEPS[step]
    workload = Workload.create(SHAPE_SETS[set_name](), device)
    kind = "cpu" if device.type == "cpu" else "hip" if torch.version.hip else "cuda"
    entries = []
    for block in blocks:
        made = optimizer(workload.parameters(), **arguments, clip=workload.source_norm, backend="triton")
        with using(kind, block):
            made.step()  # whose tables and kernels stay
        name = f"({block.elements}, {block.warps}, {block.piece_bytes})"
        entries.append(Timed(name, workload.refill, made.step))
    probe = BandwidthProbe(device)
    measured = interleave([*entries, *probe.entries()], settings, lambda fraction: None, clock_of(device))
    moved = 4 * words * element_count(workload.shapes)
    lines = []
    for entry in sorted(entries, key=lambda entry: Percentiles.of(measured.device[entry.name]).p50):
        time = Percentiles.of(measured.device[entry.name]).scaled(1e6)
        share = round_ratios(measured.device[COPY], measured.device[entry.name]).p50
        share *= moved / (4 * WORDS[COPY] * probe.elements)
        lines.append(
            f"{set_name:<10}{step:<12}{entry.name:<20}{time.p20:9.1f}{time.p50:9.1f}{time.p80:9.1f} us"
            f"{100 * share:7.1f} % of copy"
        )
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.blocks", description="Sizes of a program on Triton.")
    parser.add_argument("--sets", nargs="+", choices=list(SHAPE_SETS), default=["gpt2", "resnet50"], metavar="SET")
    parser.add_argument("--steps", nargs="+", choices=list(STEPS), default=list(STEPS), metavar="STEP")
    parser.add_argument("--elements", nargs="+", type=int, default=[512, 1024, 2048, 4096], metavar="N")
    parser.add_argument("--warps", nargs="+", type=int, default=[2, 4, 8], metavar="N")
    parser.add_argument("--pieces", nargs="+", type=int, default=[16384], metavar="BYTES")
    parser.add_argument("--seconds", type=float, default=Settings.seconds, help="for each table (default: %(default)s)")
    options = parser.parse_args(arguments)
    reason = unavailable_reason("triton")
    if reason is not None:
        parser.error(f"backend='triton' is not available: {reason}")
    from torchclip.backends.triton.blocks import Block

    device = torch.device(served_device("triton"))
    blocks = [
        Block(elements, warps, elements, piece)
        for elements, warps, piece in product(options.elements, options.warps, options.pieces)
    ]
    print(format_environment(describe_environment(device)))
    print(f"\n{'set':<10}{'step':<12}{'(size, warps, piece)':<20}{'p20':>9}{'p50':>9}{'p80':>9}")
    for set_name in options.sets:
        for step in options.steps:
            settings = Settings(seconds=options.seconds)
            print(*compare(set_name, step, blocks, device, settings), sep="\n", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
