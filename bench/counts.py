"""What a step takes besides time: memory for its temporaries, kernels and copies on a CUDA device."""

import os
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function

_MARK = "the step whose memory is measured"


def temporary_bytes(step: Callable[[], object], device: torch.device) -> int:
    """The most that a further step, which should not be the first, holds at once of what it allocates through torch."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        step()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    # Kineto announces every start and stop on stderr, at a level that only this silences.
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler:
        step()  # the profiler hears only of blocks given back that it has seen allocated
        with record_function(_MARK):
            step()
    assert profiler.profiler is not None and profiler.profiler.kineto_results is not None
    events = sorted(profiler.profiler.kineto_results.events(), key=lambda event: event.start_ns())
    begin = next(event.start_ns() for event in events if event.name() == _MARK)
    held = largest = 0
    for event in events:
        if event.name() == "[memory]" and event.start_ns() >= begin:
            held += event.nbytes()  # negative where memory is given back
            largest = max(largest, held)
    return largest


@dataclass(frozen=True)
class Launches:
    """What one step starts on the device."""

    kernels: int
    copies: int  # memory copied or filled


def count_launches(step: Callable[[], object]) -> Launches:
    """Those of one more step on a CUDA device, after one that the profiler warms up with."""
    for _ in range(2):
        with profile(activities=[ProfilerActivity.CUDA], acc_events=True) as profiler:
            step()
            torch.cuda.synchronize()
    names = [event.name for event in profiler.events() if event.device_type == DeviceType.CUDA]
    copies = sum(name.startswith(("Memcpy", "Memset")) for name in names)
    return Launches(len(names) - copies, copies)
