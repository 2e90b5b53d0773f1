"""How long a run takes: on its device, until its device has finished, and for the host alone."""

import time
from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch


class Elapsed(NamedTuple):
    """Seconds. On the CPU, which is host and device at once, all three are the same."""

    device: float  # between two marks in the device's queue, before and after the run
    wall: float  # from the call until the device has finished
    host: float  # from the call until it returns


class Clock(Protocol):
    """Times a run on one kind of device."""

    def time(self, run: Callable[[], object]) -> Elapsed: ...


class HostClock:
    """For runs that have finished when they return."""

    def time(self, run: Callable[[], object]) -> Elapsed:
        before = time.perf_counter_ns()
        run()
        seconds = (time.perf_counter_ns() - before) * 1e-9
        return Elapsed(seconds, seconds, seconds)


class CudaClock:
    """For runs that a CUDA device finishes later. Each starts on an idle device, so no queue slows the host down."""

    def __init__(self) -> None:
        self._before = torch.cuda.Event(enable_timing=True)
        self._after = torch.cuda.Event(enable_timing=True)

    def time(self, run: Callable[[], object]) -> Elapsed:
        torch.cuda.synchronize()
        self._before.record()
        called = time.perf_counter_ns()
        run()
        returned = time.perf_counter_ns()
        self._after.record()
        self._after.synchronize()
        finished = time.perf_counter_ns()
        device = self._before.elapsed_time(self._after) * 1e-3
        return Elapsed(device, (finished - called) * 1e-9, (returned - called) * 1e-9)


def clock_of(device: torch.device) -> Clock:
    """The clock for runs on the device."""
    return CudaClock() if device.type == "cuda" else HostClock()
