"""How long a run takes: on its device, until its device has finished, and for the host alone."""

import time
from collections.abc import Callable
from typing import NamedTuple

import torch

Run = Callable[[], object]


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
