"""What a run is held to: speeds that must be reached, and those of an earlier run.

The floors are ratios within one run on two processor cores, or on one GPU, kept in code so that a run says by itself
whether it fell short of one (`--check-floors`). With an earlier run (`--against`) ratios are compared too, which
machines share better than seconds: how many times as fast as torch's fastest form ours is; where torch has no form, as
the papers' authors' loop or our own step without the feature.
"""

import math
from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

from bench.algorithm import AUTHORS, OURS, PLAIN, PREFERRED, TORCH_FORMS
from bench.bandwidth import COPY, TRIAD
from bench.cases import BOUND_BY_MEMORY
from bench.results import Entry


class Quantity(Enum):
    """What a floor bounds: how it is said, in which unit, and whether it may be larger."""

    SPEEDUP = ("{value:8.2f} x the speed of {against}, must be {bound:.2f} x", 1, True)
    BANDWIDTH = ("{value:7.1f} % of the {against} bandwidth, must be {bound:.0f} %", 100, True)
    HOST_SECONDS = ("{value:8.1f} us of host time, must be {bound:.0f} us or less", 1e6, False)
    LAUNCHES = ("{value:8.0f} kernels and copies a step, must be {bound:.0f} or fewer", 1, False)


class Floor(NamedTuple):
    """A bound on our row."""

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
        elif self.quantity is Quantity.HOST_SECONDS:
            found = ours.get("warm_host_seconds", ours["seconds"]["p50"])
        else:
            count = ours.get("launches", {"kernels": 0})
            # A profiler that sees no kernel at all has counted nothing.
            found = count["kernels"] + count["copies"] if count["kernels"] else math.nan
        return float(found)

    def check(self, row: Entry) -> tuple[bool, str]:
        """Whether the bound is kept, which NaN never does, and a line that says what was wanted and what came."""
        text, factor, may_be_larger = self.quantity.value
        value = self.value(row)
        kept = value >= self.bound if may_be_larger else value <= self.bound
        said = text.format(value=factor * value, bound=factor * self.bound, against=self.against)
        return kept, f"{'pass' if kept else 'MISS'}  {self.set_name:<9}{row['title']:<25}{said}"


def _speedups(set_name: str, names: str, bound: float, against: str = "fused") -> list[Floor]:
    return [Floor(set_name, name, Quantity.SPEEDUP, bound, against) for name in names.split()]


FLOORS: tuple[Floor, ...] = (
    *_speedups("large", "clip_sgd", 1.4),
    *_speedups("large", "clip_adamw", 1.3),
    *_speedups("small", "clip_sgd clip_adamw", 40),
    *_speedups("medium", "clip_sgd clip_adamw", 2),
    # Without clipping both sides make one pass at the memory's limit: parity, less the noise.
    *_speedups("large", "sgd adamw", 0.97),
    *_speedups("large", "mixclip", 1.45, AUTHORS),
    *_speedups("small", "mixclip", 80, AUTHORS),
    *_speedups("large", "grda", 1.8, AUTHORS),
    *_speedups("small", "grda", 100, AUTHORS),
    *_speedups("large", "nadam radam rmsprop", 4, "foreach"),
    *_speedups("small", "nadam radam rmsprop", 60, "foreach"),
    # The same words as the plain step, and so the same bandwidth to 5 %.
    *_speedups("large", "adaloss adagrad_norm", 0.95, PLAIN),
    # Draws move nothing, but a generator costs arithmetic: a mask 10 % of the time, normal numbers 25 %.
    *_speedups("large", "sgd_gradient_dropout sgd_lr_dropout", 1 / 1.10, PLAIN),
    *_speedups("large", "adamw_gradient_dropout adamw_lr_dropout", 1 / 1.10, PLAIN),
    *_speedups("large", "sgd_gradient_noise adamw_gradient_noise", 1 / 1.25, PLAIN),
    *(Floor("large", name, Quantity.BANDWIDTH, 0.9, TRIAD) for name in BOUND_BY_MEMORY),
    *(Floor("host", name, Quantity.HOST_SECONDS, 100e-6) for name in BOUND_BY_MEMORY),
)

CUDA_FLOORS: tuple[Floor, ...] = (
    Floor("gpt2_xl", "clip_sgd", Quantity.BANDWIDTH, 0.9, COPY),
    Floor("gpt2_xl", "clip_adamw", Quantity.BANDWIDTH, 0.9, COPY),
    Floor("gpt2_xl", "grda", Quantity.BANDWIDTH, 0.85, COPY),
    *_speedups("gpt2_xl", "clip_sgd", 1.33),
    *_speedups("gpt2_xl", "clip_adamw", 1.25),
    *_speedups("resnet50", "clip_sgd", 3),
    # Where the authors' loop waits for launches and norms; at the memory's limit it moves 13 words to our 7.
    *_speedups("resnet50", "mixclip", 5, AUTHORS),
    *_speedups("thousands", "clip_sgd clip_adamw", 10),
    Floor("resnet50", "clip_sgd", Quantity.HOST_SECONDS, 25e-6),
    # The Triton backend keeps up with the CUDA one where both wait for memory.
    *(Floor("gpt2_xl", f"{name}_triton", Quantity.BANDWIDTH, 0.85, COPY) for name in BOUND_BY_MEMORY),
    *_speedups("gpt2_xl", " ".join(f"{name}_triton" for name in BOUND_BY_MEMORY), 1 / 1.10, PREFERRED),
    # The norm pass and the update, or both in one cooperative launch.
    *(Floor(name, "clip_sgd", Quantity.LAUNCHES, 2) for name in ("thousands", "medium", "gpt2_xl")),
)


def _by_row(entries: Sequence[Entry]) -> dict[tuple[str, str], Entry]:
    return {(entry["set"], entry["algorithm"]): entry for entry in entries}


def check_floors(rows: Sequence[Entry], floors: Sequence[Floor]) -> tuple[list[str], bool]:
    """The lines to print for the floors whose rows were run, and whether all of them were reached."""
    measured = _by_row(rows)
    checked = [floor.check(measured[floor[:2]]) for floor in floors if floor[:2] in measured]
    lines = [line for _, line in checked]
    if left_out := len(floors) - len(checked):
        lines.append(f"{left_out} of {len(floors)} floors were not measured by this selection of sets and algorithms.")
    return lines, not left_out and all(kept for kept, _ in checked)


FALL = 0.10
"""The part of a ratio that may be lost: beyond it lie changes of the code, short of it the noise of a quiet machine."""


def compare(baseline: Sequence[Entry], entries: Sequence[Entry]) -> tuple[list[str], bool]:
    """The lines to print for rows of an earlier run and of this one, and whether nothing fell."""
    before, lines, fallen = _by_row(baseline), [], 0
    for key, now in _by_row(entries).items():
        earlier, later = before.pop(key, {"contenders": {}})["contenders"], now["contenders"]
        # Forms that one run alone has are left out: it may have been asked for another one.
        common = [[name for name in names if name in earlier and name in later]
                  for names in (TORCH_FORMS, (AUTHORS,), (PLAIN,), (PREFERRED,))]  # fmt: skip
        if names := next(filter(None, common), None):
            old = min(earlier[name]["speedup_of_ours"]["p50"] for name in names)
            new, rival = min((later[name]["speedup_of_ours"]["p50"], name) for name in names)
            fell = not new >= (1 - FALL) * old
            fallen += fell
            change = f"{old:8.2f} x -> {new:8.2f} x  ({100 * (new / old - 1):+.0f} %)  beside {rival}"
            lines.append(f"{'FELL' if fell else 'kept'}  {key[0]:<10}{key[1]:<24}{change}")
    compared = len(lines)
    if before:
        lines.append(f"{len(before)} rows of the baseline were not measured by this run.")
    lines.append(f"{fallen} of {compared} rows fell by more than {100 * FALL:.0f} %.")
    # A comparison of nothing has guarded nothing.
    return lines, compared > 0 and not fallen
