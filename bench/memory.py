"""How much memory a step takes beside what is there before it: its temporaries, at their most."""

import os
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile, record_function

_MARK = "the step whose memory is measured"


def temporary_bytes(step: Callable[[], object], device: torch.device) -> int:
    """The most that a further step holds at once of what it allocates through torch.

    The step should not be the first, which allocates state that stays.
    """
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


def free_cached_memory() -> None:
    """Between rows: blocks that torch keeps from one row are of the wrong sizes for the next."""
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
