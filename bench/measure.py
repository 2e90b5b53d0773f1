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
from typing import NamedTuple

import torch

Run = Callable[[], object]
Samples = Mapping[str, Sequence[float]]  # name -> seconds, one per round
Percentiles = dict[str, float]  # p20, p50, p80


class Elapsed(NamedTuple):
    """Seconds. On the CPU, which is host and device at once, all three are the same."""

    device: float  # between two marks in the device's queue, before and after the run
    wall: float  # from the call until the device has finished
    host: float  # from the call until it returns


Clock = Callable[[Run], Elapsed]
"""Times a run on one kind of device."""


def time_on_host(run: Run) -> Elapsed:
    """For runs that have finished when they return."""
    before = time.perf_counter_ns()
    run()
    seconds = (time.perf_counter_ns() - before) * 1e-9
    return Elapsed(seconds, seconds, seconds)


class CudaClock:
    """For runs that a CUDA device finishes later. Each starts on an idle device, so no queue slows the host down."""

    def __init__(self) -> None:
        self._before = torch.cuda.Event(enable_timing=True)
        self._after = torch.cuda.Event(enable_timing=True)

    def __call__(self, run: Run) -> Elapsed:
        torch.cuda.synchronize()
        return self.time_behind(run, lambda before: False)[0]

    def time_behind(self, run: Run, ask: Callable[[torch.cuda.Event], bool]) -> tuple[Elapsed, bool]:
        """The time of a run behind what is queued, and what `ask` says when the call has returned."""
        self._before.record()
        called = time.perf_counter_ns()
        run()
        returned = time.perf_counter_ns()
        answer = ask(self._before)
        self._after.record()
        self._after.synchronize()
        finished = time.perf_counter_ns()
        device = self._before.elapsed_time(self._after) * 1e-3
        return Elapsed(device, (finished - called) * 1e-9, (returned - called) * 1e-9), answer


class NeverQueuedError(RuntimeError):
    """The device came to a run before the host had queued all of it, however long it was kept busy before."""


class QueuedCudaClock:
    """For the device's own time of a run: a kernel before it keeps the device busy until the host has queued all of it.

    A run that the device comes to before the host is through is made again, behind a longer kernel.
    """

    _TRIES = 6  # of 1, 2, 4, 8, 16 and 32 ms at 2 GHz

    def __init__(self, cycles: int = 1 << 21) -> None:
        self.cycles = cycles
        """How long the device is kept busy."""
        self._longest = cycles << (self._TRIES - 1)
        self._clock = CudaClock()

    def __call__(self, run: Run) -> Elapsed:
        """The time of the run that was queued.

        Raises:
            NeverQueuedError: when none was: it waits for the device itself, or has more launches than a queue holds.
        """
        for _ in range(self._TRIES):
            torch.cuda.synchronize()
            torch.cuda._sleep(self.cycles)
            elapsed, came_too_early = self._clock.time_behind(run, lambda before: before.query())
            if not came_too_early:
                return elapsed
            self.cycles = min(2 * self.cycles, self._longest)
        raise NeverQueuedError(f"not queued within {self.cycles:,} cycles of the device")


def clock_of(device: torch.device) -> Clock:
    """The clock for runs on the device."""
    return CudaClock() if device.type == "cuda" else time_on_host


@dataclass(frozen=True)
class Settings:
    """How a row is measured: for `seconds`, but never fewer than `min_rounds` rounds or more than `max_rounds`."""

    seconds: float = 8.0
    warmup: int = 3  # rounds
    min_rounds: int = 20
    max_rounds: int = 2000
    cold: bool = False  # every step starts with its tensors outside the cache


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
            times.append(clock(self.run))
        return Elapsed(*(sum(parts) / self.counted for parts in zip(*times, strict=True)))


def percentiles(values: Sequence[float], factor: float = 1.0) -> Percentiles:
    deciles = statistics.quantiles(values, n=10, method="inclusive")
    return {"p20": factor * deciles[1], "p50": factor * deciles[4], "p80": factor * deciles[7]}


def round_ratios(numerator: Sequence[float], denominator: Sequence[float]) -> Percentiles:
    """Percentiles of the ratios within each round."""
    return percentiles([a / b for a, b in zip(numerator, denominator, strict=True)])


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


def interleave(entries: Sequence[Timed], settings: Settings, clock: Clock) -> Measured:
    """Time every entry once per round, in the order of the entries."""
    samples: dict[str, list[Elapsed]] = {entry.name: [] for entry in entries}
    with _no_garbage_collection():
        for index in range(settings.warmup):
            for entry in entries:
                entry.turn(index, clock)
        started = time.perf_counter()
        for rounds in range(1, settings.max_rounds + 1):
            for entry in entries:
                samples[entry.name].append(entry.turn(settings.warmup + rounds - 1, clock))
            if rounds >= settings.min_rounds and time.perf_counter() - started >= settings.seconds:
                break
    device, wall, host = ({name: [t[part] for t in times] for name, times in samples.items()} for part in range(3))
    return Measured(device, wall, host, settings.warmup + rounds)


# Of warm_host_seconds: enough for a median, and what a step of a fifth of a second can be given.
_WARM_STEPS, _WARM_SECONDS = 40, 0.2


def warm_host_seconds(run: Callable[[], object], clock: Clock) -> float:
    """Median time until the call returns, of runs that follow one another, each on an idle device.

    In turns with others a run finds the processor's caches swept, and what it takes is mostly that.
    """
    samples: list[float] = []
    started = time.perf_counter()
    while len(samples) < _WARM_STEPS and (len(samples) < 3 or time.perf_counter() - started < _WARM_SECONDS):
        samples.append(clock(run).host)
    return statistics.median(samples)


_FURTHER_PART = 1 / 3  # of a row's time, for each further form of it


def interleave_further(entries: Sequence[Timed], settings: Settings, clock: Clock) -> Samples:
    """A further form of a row, on a part of its time: the device's seconds of every entry, once per round."""
    return interleave(entries, replace(settings, seconds=_FURTHER_PART * settings.seconds), clock).device


def interleave_queued(entries: Sequence[Timed], settings: Settings) -> Samples:
    """The CUDA device's own seconds of every entry, once per round, with the host's time hidden.

    Entries that cannot be queued are left out; see `QueuedCudaClock`.
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
    return interleave_further(queued, settings, QueuedCudaClock(max(cycles)))
