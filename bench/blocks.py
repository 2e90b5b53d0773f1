"""`python -m bench.blocks`: how fast a step on Triton is for each size of a program, measured in one run.

The winner is what `torchclip/backends/triton/blocks.py` should say for this kind of GPU.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from typing import Any, ClassVar

import torch
from tabulate import tabulate

from bench.algorithm import Rule, ours
from bench.bandwidth import COPY, BandwidthProbe
from bench.cases import CLIP, RULES
from bench.clock import clock_of
from bench.machine import describe_environment
from bench.measure import Settings, Timed, interleave, percentiles, round_ratios
from bench.measurement import format_environment, spread
from bench.options import Command, Refused, option, positive, run_command
from bench.shapes import SHAPE_SETS, Shapes, element_count
from bench.workload import Workload
from torchclip.backends.choice import served_device, unavailable_reason

STEPS = {"clip_sgd": RULES["sgd"], "clip_adamw": RULES["adamw"]}


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


def compare(
    shapes: Shapes, rule: Rule, blocks: Sequence[Any], device: torch.device, settings: Settings
) -> list[dict[str, str]]:
    """Times a step with each block in turn, and the copy beside them; a record for each, the fastest first."""
    workload = Workload.create(shapes, device)
    kind = "cpu" if device.type == "cpu" else "hip" if torch.version.hip else "cuda"
    entries = []
    for block in blocks:
        step = ours(rule, CLIP, "triton")(workload.parameters(), workload.source_norm)
        with using(kind, block):
            step()  # whose tables and kernels stay
        entries.append(Timed(f"({block.elements}, {block.warps}, {block.piece_bytes})", workload.refill, step))
    probe = BandwidthProbe(device)
    measured = interleave([*entries, *probe.entries()], settings, clock_of(device)).device
    moved = rule.bytes_per_element(CLIP, torch.float32) * element_count(shapes)
    shares = {
        entry.name: round_ratios(measured[COPY], measured[entry.name])["p50"] * moved / probe.bytes_moved(COPY)
        for entry in entries
    }
    return [
        {
            "(size, warps, piece)": name,
            "us": spread(percentiles(measured[name]), 1e6, 1),
            "% of copy": f"{100 * share:.1f}",
        }
        for name, share in sorted(shares.items(), key=lambda pair: -pair[1])
    ]


@dataclass(kw_only=True)
class Blocks(Command):
    """times a step on Triton with each size of a program"""

    name: ClassVar[str] = "blocks"
    sets: Sequence[str] = option(("gpt2", "resnet50"), "sets of shapes", choices=list(SHAPE_SETS))
    steps: Sequence[str] = option(tuple(STEPS), "steps", choices=list(STEPS))
    elements: Sequence[int] = option((512, 1024, 2048, 4096), "elements of a program", type=positive(int))
    warps: Sequence[int] = option((2, 4, 8), "its warps", type=positive(int))
    pieces: Sequence[int] = option((16384,), "bytes of the parameter that it updates at most", type=positive(int))
    seconds: float = option(Settings.seconds, "time for each table", type=positive(float))

    def run(self) -> int:
        if (reason := unavailable_reason("triton")) is not None:
            raise Refused(f"backend='triton' is not available: {reason}")
        from torchclip.backends.triton.blocks import Block

        device = torch.device(served_device("triton"))
        chosen = product(self.elements, self.warps, self.pieces)
        blocks = [Block(elements, warps, elements, piece) for elements, warps, piece in chosen]
        print(format_environment(describe_environment(device)))
        for name, step in product(self.sets, self.steps):
            table = compare(SHAPE_SETS[name](), STEPS[step], blocks, device, Settings(seconds=self.seconds))
            print(f"\n{name}, {step}", tabulate(table, headers="keys", disable_numparse=True), sep="\n", flush=True)
        return 0


if __name__ == "__main__":
    sys.exit(run_command([Blocks], ["blocks", *sys.argv[1:]], "python -m bench", "Benchmarks of torchclip."))
