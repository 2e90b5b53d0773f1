"""What a run is held to: speeds that must be reached, and those of an earlier run.

The floors are ratios within one run on two processor cores, or on one GPU, kept in code so that a run says by itself
whether it fell short of one (`--check-floors`). With an earlier run (`--against`) ratios are compared too, which
machines share better than seconds: how many times as fast as torch's fastest form ours is; where torch has no form, as
the papers' authors' loop or our own step without the feature.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from bench.algorithm import AUTHORS, OURS, PLAIN, PREFERRED, TORCH_FORMS
from bench.bandwidth import COPY, TRIAD
from bench.cases import BOUND_BY_MEMORY
from bench.results import Entry


class Quantity(Enum):
    """What a floor bounds, how it is said, and in which unit."""

    SPEEDUP = ("{value:8.2f} x the speed of {against}, must be {bound:.2f} x", 1)
    BANDWIDTH = ("{value:7.1f} % of the {against} bandwidth, must be {bound:.0f} %", 100)
    HOST_SECONDS = ("{value:8.1f} us of host time, must be below {bound:.0f} us", 1e6)
    LAUNCHES = ("{value:8.0f} kernels and copies a step, must be {bound:.0f} or fewer", 1)


@dataclass(frozen=True)
class Floor:
    """A bound on our row: at least `bound`; below it for a time, and at most that for launches."""

    set_name: str
    algorithm: str
    quantity: Quantity
    bound: float
    against: str = ""  # a contender or a bandwidth probe

    def value(self, row: Entry) -> float:
        """The bounded quantity as measured, a median over rounds."""
        ours = row["contenders"][OURS]
        if self.quantity is Quantity.SPEEDUP:
            found = row["contenders"][self.against]["speedup_of_ours"]["p50"]
        elif self.quantity is Quantity.BANDWIDTH:
            found = ours[f"share_of_{self.against}"]
        elif self.quantity is Quantity.LAUNCHES:
            count = ours.get("launches", {"kernels": 0})
            # A profiler that sees no kernel at all has counted nothing.
            found = count["kernels"] + count["copies"] if count["kernels"] else math.nan
        else:
            found = ours.get("warm_host_seconds", ours["seconds"]["p50"])
        return float(found)

    def holds(self, value: float) -> bool:
        """Whether the bound is kept; NaN never keeps it."""
        if self.quantity is Quantity.HOST_SECONDS:
            return value < self.bound
        return value <= self.bound if self.quantity is Quantity.LAUNCHES else value >= self.bound

    def describe(self, row: Entry) -> str:
        """One line: passed or missed, what was wanted and what came."""
        value = self.value(row)
        text, factor = self.quantity.value
        said = text.format(value=factor * value, bound=factor * self.bound, against=self.against)
        return f"{'pass' if self.holds(value) else 'MISS'}  {self.set_name:<9}{row['title']:<25}{said}"


def _speedup(set_name: str, algorithm: str, bound: float, against: str = "fused") -> Floor:
    return Floor(set_name, algorithm, Quantity.SPEEDUP, bound, against)


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
    *(Floor("large", name, Quantity.BANDWIDTH, 0.9, TRIAD) for name in BOUND_BY_MEMORY),
    *(Floor("host", name, Quantity.HOST_SECONDS, 100e-6) for name in BOUND_BY_MEMORY),
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
    *(Floor("gpt2_xl", f"{name}_triton", Quantity.BANDWIDTH, 0.85, COPY) for name in BOUND_BY_MEMORY),
    *(_speedup("gpt2_xl", f"{name}_triton", 1 / 1.10, PREFERRED) for name in BOUND_BY_MEMORY),
    # The norm pass and the update, or both in one cooperative launch.
    *(Floor(name, "clip_sgd", Quantity.LAUNCHES, 2) for name in ("thousands", "medium", "gpt2_xl")),
)


def by_row(entries: Sequence[Entry]) -> dict[tuple[str, str], Entry]:
    """The entries by set and algorithm."""
    return {(entry["set"], entry["algorithm"]): entry for entry in entries}


def check_floors(rows: Sequence[Entry], floors: Sequence[Floor]) -> tuple[list[str], bool]:
    """The lines to print for the floors whose rows were run, and whether all of them were reached."""
    measured = by_row(rows)
    pairs = [(floor, measured[key]) for floor in floors if (key := (floor.set_name, floor.algorithm)) in measured]
    lines = [floor.describe(row) for floor, row in pairs]
    left_out = len(floors) - len(pairs)
    if left_out:
        lines.append(f"{left_out} of {len(floors)} floors were not measured by this selection of sets and algorithms.")
    return lines, not left_out and all(floor.holds(floor.value(row)) for floor, row in pairs)


FALL = 0.10
"""The part of a ratio that may be lost: beyond it lie changes of the code, short of it the noise of a quiet machine."""


def compare(baseline: Sequence[Entry], entries: Sequence[Entry]) -> tuple[list[str], bool]:
    """The lines to print, and whether nothing fell.

    Args:
        baseline: the rows of the earlier run.
        entries: the rows of this one.
    """
    before = by_row(baseline)
    lines, fallen = [], 0
    for key, now in by_row(entries).items():
        if (then := before.pop(key, None)) is None:
            continue
        earlier, later = then["contenders"], now["contenders"]
        for rivals in (TORCH_FORMS, (AUTHORS,), (PLAIN,), (PREFERRED,)):
            # Forms that one run alone has are left out: it may have been asked for another one.
            ratios = [
                (later[name]["speedup_of_ours"]["p50"], earlier[name]["speedup_of_ours"]["p50"], name)
                for name in rivals
                if name in earlier and name in later
            ]
            if ratios:
                new, old, rival = min(ratios)[0], min(old for _, old, _ in ratios), min(ratios)[2]
                fell = not new >= (1 - FALL) * old
                fallen += fell
                change = f"{old:8.2f} x -> {new:8.2f} x  ({100 * (new / old - 1):+.0f} %)  beside {rival}"
                lines.append(f"{'FELL' if fell else 'kept'}  {key[0]:<10}{key[1]:<24}{change}")
                break
    compared = len(lines)
    if before:
        lines.append(f"{len(before)} rows of the baseline were not measured by this run.")
    lines.append(f"{fallen} of {compared} rows fell by more than {100 * FALL:.0f} %.")
    # A comparison of nothing has guarded nothing.
    return lines, compared > 0 and not fallen
