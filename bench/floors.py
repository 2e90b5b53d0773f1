"""The speeds that must be reached, as ratios within one run on two processor cores, or on one GPU.

They are kept in code so that a run says by itself whether it fell short of one (`--check-floors`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from bench.algorithm import AUTHORS, OURS, PLAIN
from bench.bandwidth import COPY, TRIAD
from bench.step import Row
from bench.triton_cases import PREFERRED


class Quantity(Enum):
    """What a floor bounds."""

    SPEEDUP = "x the speed of"
    BANDWIDTH = "of the bandwidth of"
    HOST_SECONDS = "s of host time"
    LAUNCHES = "kernels and copies a step"


@dataclass(frozen=True)
class Floor:
    """A bound on our row: at least `bound`; below it for a time, and at most that for launches."""

    set_name: str
    algorithm: str
    quantity: Quantity
    bound: float
    against: str = ""  # a contender or a bandwidth probe

    def value(self, row: Row) -> float:
        """The bounded quantity as measured, a median over rounds."""
        if self.quantity is Quantity.SPEEDUP:
            return row.ratio(self.against).p50
        if self.quantity is Quantity.BANDWIDTH:
            return row.bandwidth_share(OURS, self.against)
        if self.quantity is Quantity.LAUNCHES:
            count = row.launches.get(OURS)
            # A profiler that sees no kernel at all has counted nothing.
            return math.nan if count is None or count.kernels == 0 else count.kernels + count.copies
        return row.warm_host[OURS] if row.warm_host else row.host_seconds(OURS).p50

    def holds(self, value: float) -> bool:
        """Whether the bound is kept; NaN never keeps it."""
        if self.quantity is Quantity.HOST_SECONDS:
            return value < self.bound
        return value <= self.bound if self.quantity is Quantity.LAUNCHES else value >= self.bound

    def describe(self, row: Row) -> str:
        """One line: passed or missed, what was wanted and what came."""
        value = self.value(row)
        verdict = "pass" if self.holds(value) else "MISS"
        if self.quantity is Quantity.LAUNCHES:
            text = f"{value:8.0f} kernels and copies a step, must be {self.bound:.0f} or fewer"
        elif self.quantity is Quantity.HOST_SECONDS:
            text = f"{value * 1e6:8.1f} us of host time, must be below {self.bound * 1e6:.0f} us"
        elif self.quantity is Quantity.BANDWIDTH:
            text = f"{value * 100:7.1f} % of the {self.against} bandwidth, must be {self.bound * 100:.0f} %"
        else:
            text = f"{value:8.2f} x the speed of {self.against}, must be {self.bound:.2f} x"
        return f"{verdict}  {self.set_name:<9}{row.algorithm.title:<25}{text}"


def _speedup(set_name: str, algorithm: str, bound: float, against: str = "fused") -> Floor:
    return Floor(set_name, algorithm, Quantity.SPEEDUP, bound, against)


# Rows held to what the machine can do; the others are held to what they are compared with.
_BOUND_BY_MEMORY = ("clip_sgd", "clip_adamw", "sgd", "adamw", "mixclip", "grda")

FLOORS: tuple[Floor, ...] = (
    _speedup("large", "clip_sgd", 1.4),
    _speedup("large", "clip_adamw", 1.3),
    _speedup("small", "clip_sgd", 40),
    _speedup("small", "clip_adamw", 40),
    _speedup("medium", "clip_sgd", 2),
    _speedup("medium", "clip_adamw", 2),
    # Without clipping both sides make one pass at the memory's limit: parity, less the noise.
    _speedup("large", "sgd", 0.97),
    _speedup("large", "adamw", 0.97),
    _speedup("large", "mixclip", 1.45, AUTHORS),
    _speedup("small", "mixclip", 80, AUTHORS),
    _speedup("large", "grda", 1.8, AUTHORS),
    _speedup("small", "grda", 100, AUTHORS),
    *(_speedup("large", name, 4, "foreach") for name in ("nadam", "radam", "rmsprop")),
    *(_speedup("small", name, 60, "foreach") for name in ("nadam", "radam", "rmsprop")),
    # The same words as the plain step, and so the same bandwidth to 5 %.
    _speedup("large", "adaloss", 0.95, PLAIN),
    _speedup("large", "adagrad_norm", 0.95, PLAIN),
    # Draws move nothing, but a generator costs arithmetic: a mask 10 % of the time, normal numbers 25 %.
    *(
        _speedup("large", f"{optimizer}_{mask}", 1 / 1.10, PLAIN)
        for optimizer in ("sgd", "adamw")
        for mask in ("gradient_dropout", "lr_dropout")
    ),
    *(_speedup("large", f"{optimizer}_gradient_noise", 1 / 1.25, PLAIN) for optimizer in ("sgd", "adamw")),
    *(Floor("large", name, Quantity.BANDWIDTH, 0.9, TRIAD) for name in _BOUND_BY_MEMORY),
    *(Floor("host", name, Quantity.HOST_SECONDS, 100e-6) for name in _BOUND_BY_MEMORY),
)


CUDA_FLOORS: tuple[Floor, ...] = (
    Floor("gpt2_xl", "clip_sgd", Quantity.BANDWIDTH, 0.9, COPY),
    Floor("gpt2_xl", "clip_adamw", Quantity.BANDWIDTH, 0.9, COPY),
    Floor("gpt2_xl", "grda", Quantity.BANDWIDTH, 0.85, COPY),
    _speedup("gpt2_xl", "clip_sgd", 1.33),
    _speedup("gpt2_xl", "clip_adamw", 1.25),
    _speedup("resnet50", "clip_sgd", 3),
    # Where the authors' loop waits for launches and norms; at the memory's limit it moves 13 words to our 7.
    _speedup("resnet50", "mixclip", 5, AUTHORS),
    *(_speedup("thousands", name, 10) for name in ("clip_sgd", "clip_adamw")),
    Floor("resnet50", "clip_sgd", Quantity.HOST_SECONDS, 25e-6),
    # The Triton backend keeps up with the CUDA one where both wait for memory.
    *(Floor("gpt2_xl", f"{name}_triton", Quantity.BANDWIDTH, 0.85, COPY) for name in _BOUND_BY_MEMORY),
    *(_speedup("gpt2_xl", f"{name}_triton", 1 / 1.10, PREFERRED) for name in _BOUND_BY_MEMORY),
    # The norm pass and the update, or both in one cooperative launch.
    *(Floor(name, "clip_sgd", Quantity.LAUNCHES, 2) for name in ("thousands", "medium", "gpt2_xl")),
)


def check_floors(rows: Sequence[Row], floors: Sequence[Floor] = FLOORS) -> tuple[list[str], bool]:
    """The lines to print for the floors whose rows were run, and whether all of them were reached."""
    measured = {(row.set_name, row.algorithm.name): row for row in rows}
    lines, reached, left_out = [], True, 0
    for floor in floors:
        row = measured.get((floor.set_name, floor.algorithm))
        if row is None:
            left_out += 1
            continue
        lines.append(floor.describe(row))
        reached = reached and floor.holds(floor.value(row))
    if left_out:
        lines.append(f"{left_out} of {len(floors)} floors were not measured by this selection of sets and algorithms.")
    return lines, reached and left_out < len(floors)
