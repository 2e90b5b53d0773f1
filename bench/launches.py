"""How many kernels and copies a step hands to a CUDA device."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile


@dataclass(frozen=True)
class Launches:
    """What one step starts on the device."""

    kernels: int
    copies: int  # memory copied or filled


def count_launches(step: Callable[[], object], device: torch.device) -> Launches | None:
    """The launches of one more step, after one that the profiler warms up with; None where nothing is launched."""
    if device.type != "cuda":
        return None
    for _ in range(2):
        with profile(activities=[ProfilerActivity.CUDA], acc_events=True) as profiler:
            step()
            torch.cuda.synchronize(device)
    names = [event.name for event in profiler.events() if event.device_type == DeviceType.CUDA]
    copies = sum(name.startswith(("Memcpy", "Memset")) for name in names)
    return Launches(len(names) - copies, copies)
