"""Interleaved timing and the statistics over it.

On a machine that others use too, times drift by tens of percent within seconds. So everything compared is timed in
one process in turn, A B C A B C …, and a ratio is the median of the ratios within each round rather than a
ratio of medians: both sides of a round have seen the same machine.
"""

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

Samples = Mapping[str, Sequence[float]]  # name -> seconds, one per round


@dataclass(frozen=True)
class Settings:
    """How a row is measured: for `seconds`, but never fewer than `min_rounds` rounds or more than `max_rounds`."""

    seconds: float = 8.0
    warmup: int = 3  # rounds
    min_rounds: int = 20
    max_rounds: int = 2000
    cold: bool = False  # no lead-in steps: sets that fit into the cache start their step outside it

    def __post_init__(self) -> None:
        if not self.seconds > 0:
            raise ValueError(f"expected a positive time, got {self.seconds=}")
        if not 2 <= self.min_rounds <= self.max_rounds or self.warmup < 1:
            raise ValueError(f"expected 2 <= min_rounds <= max_rounds and warmup >= 1, got {self}")


@dataclass(frozen=True)
class Timed:
    """Something that takes its turn in every round: `lead_in` runs that nobody times, then the `counted` ones."""

    name: str
    prepare: Callable[[int], object]  # before every run, outside the time; called with the count of runs before it
    run: Callable[[], object]
    lead_in: int = 0
    counted: int = 1

    @property
    def runs(self) -> int:
        """Runs of one turn."""
        return self.lead_in + self.counted

    def turn(self, round_index: int) -> float:
        """Seconds of a run, a mean over those of this turn that count."""
        first = round_index * self.runs
        for index in range(first, first + self.lead_in):
            self.prepare(index)
            self.run()
        nanoseconds = 0
        for index in range(first + self.lead_in, first + self.runs):
            self.prepare(index)
            before = time.perf_counter_ns()
            self.run()
            nanoseconds += time.perf_counter_ns() - before
        return nanoseconds / self.counted * 1e-9


@dataclass(frozen=True)
class Percentiles:
    p20: float
    p50: float
    p80: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Percentiles":
        deciles = statistics.quantiles(values, n=10, method="inclusive")
        return cls(deciles[1], deciles[4], deciles[7])

    def scaled(self, factor: float) -> "Percentiles":
        return Percentiles(self.p20 * factor, self.p50 * factor, self.p80 * factor)


def round_ratios(numerator: Sequence[float], denominator: Sequence[float]) -> Percentiles:
    """Percentiles of the ratios within each round."""
    return Percentiles.of([a / b for a, b in zip(numerator, denominator, strict=True)])


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    # A collection triggered by one competitor's allocations would fall into another's timed region.
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def interleave(entries: Sequence[Timed], settings: Settings, on_round: Callable[[float], None]) -> tuple[Samples, int]:
    """Time every entry once per round.

    Args:
        entries: what is timed, in the order of their turns.
        settings: when to stop.
        on_round: called after each timed round with the fraction of the work that is done, in [0, 1].

    Returns:
        The seconds per entry and round, without the warm-up; and the number of rounds run, the warm-up included.
    """
    samples: dict[str, list[float]] = {entry.name: [] for entry in entries}
    with _no_garbage_collection():
        for index in range(settings.warmup):
            for entry in entries:
                entry.turn(index)
        started = time.perf_counter()
        for rounds in range(1, settings.max_rounds + 1):
            for entry in entries:
                samples[entry.name].append(entry.turn(settings.warmup + rounds - 1))
            elapsed = time.perf_counter() - started
            done = min(elapsed / settings.seconds, rounds / settings.min_rounds)
            on_round(min(1.0, done))
            if done >= 1:
                break
    return samples, settings.warmup + rounds
