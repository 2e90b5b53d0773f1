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
from dataclasses import dataclass, replace

from bench.clock import Clock, Elapsed, NeverQueuedError, QueuedCudaClock

Samples = Mapping[str, Sequence[float]]  # name -> seconds, one per round


@dataclass(frozen=True)
class Settings:
    """How a row is measured: for `seconds`, but never fewer than `min_rounds` rounds or more than `max_rounds`."""

    seconds: float = 8.0
    warmup: int = 3  # rounds
    min_rounds: int = 20
    max_rounds: int = 2000
    cold: bool = False  # every step starts with its tensors outside the cache

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

    def turn(self, round_index: int, clock: Clock) -> Elapsed:
        """The time of a run, a mean over those of this turn that count."""
        first = round_index * self.runs
        for index in range(first, first + self.lead_in):
            self.prepare(index)
            self.run()
        times = []
        for index in range(first + self.lead_in, first + self.runs):
            self.prepare(index)
            times.append(clock.time(self.run))
        return Elapsed(*(sum(parts) / self.counted for parts in zip(*times, strict=True)))


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


@dataclass(frozen=True)
class Measured:
    """The seconds of every entry, one for each round but the warm-up's; see `Elapsed`."""

    device: Samples
    wall: Samples
    host: Samples
    rounds: int  # with the warm-up

    @classmethod
    def of(cls, times: Mapping[str, Sequence[Elapsed]], rounds: int) -> "Measured":
        device, wall, host = ({name: [t[part] for t in entry] for name, entry in times.items()} for part in range(3))
        return cls(device, wall, host, rounds)


# Of warm_host_seconds: enough for a median, and what a step of a fifth of a second can be given.
_WARM_STEPS, _WARM_SECONDS = 40, 0.2


def warm_host_seconds(run: Callable[[], object], clock: Clock) -> float:
    """Median time until the call returns, of runs that follow one another, each on an idle device.

    In turns with others a run finds the processor's caches swept, and what it takes is mostly that.
    """
    samples: list[float] = []
    started = time.perf_counter()
    while len(samples) < _WARM_STEPS and (len(samples) < 3 or time.perf_counter() - started < _WARM_SECONDS):
        samples.append(clock.time(run).host)
    return statistics.median(samples)


def interleave(
    entries: Sequence[Timed], settings: Settings, on_round: Callable[[float], None], clock: Clock
) -> Measured:
    """Time every entry once per round.

    Args:
        entries: what is timed, in the order of their turns.
        settings: when to stop.
        on_round: called after each timed round with the fraction of the work that is done, in [0, 1].
        clock: of the device that the entries run on.
    """
    samples: dict[str, list[Elapsed]] = {entry.name: [] for entry in entries}
    with _no_garbage_collection():
        for index in range(settings.warmup):
            for entry in entries:
                entry.turn(index, clock)
        started = time.perf_counter()
        for rounds in range(1, settings.max_rounds + 1):
            for entry in entries:
                samples[entry.name].append(entry.turn(settings.warmup + rounds - 1, clock))
            elapsed = time.perf_counter() - started
            done = min(elapsed / settings.seconds, rounds / settings.min_rounds)
            on_round(min(1.0, done))
            if done >= 1:
                break
    return Measured.of(samples, settings.warmup + rounds)


_QUEUED_PART = 1 / 3  # of a row's time


def interleave_queued(entries: Sequence[Timed], settings: Settings) -> Samples:
    """The CUDA device's own seconds of every entry, once per round, with the host's time hidden.

    Entries that cannot be queued are left out; see `QueuedCudaClock`.

    Args:
        entries: what is timed, in the order of their turns.
        settings: of the row, which are for more time.
    """
    queued, cycles = [], [QueuedCudaClock().cycles]
    for entry in entries:
        clock = QueuedCudaClock()
        try:
            entry.turn(0, clock)
        except NeverQueuedError:
            continue
        queued.append(entry)
        cycles.append(clock.cycles)
    settings = replace(settings, seconds=_QUEUED_PART * settings.seconds)
    return interleave(queued, settings, lambda fraction: None, QueuedCudaClock(max(cycles))).device
