"""Whether the processes of an optimizer have disagreed, as the device of each has found out.

The device makes it out of sums that all processes have, so that it is the same in all of them in the same step. It
stays, and every later step is left out, until the hosts have heard of it: all at the same number of steps, by a copy
that was made some steps before and that nothing has to be waited for any more.
"""

from __future__ import annotations

import torch
from torch import Tensor

EVERY = 8
"""After how many steps that send something the flag is copied. It is read as many steps later."""


class LeftOut(Exception):
    """A step in the place of which this process has taken part in what the others send, and has written nothing."""


class Arrival:
    """A number on its way from a device to the host.

    Args:
        number: 0-dim, float64.
    """

    def __init__(self, number: Tensor) -> None:
        self._here = torch.empty((), dtype=number.dtype, device="cpu", pin_memory=number.is_cuda)
        self._here.copy_(number, non_blocking=True)
        self._event = torch.cuda.Event() if number.is_cuda else None
        if self._event is not None:
            self._event.record(torch.cuda.current_stream(number.device))

    def wait(self) -> float:
        """The number, once it is there."""
        if self._event is not None:
            self._event.synchronize()
        return float(self._here)


class DeviceFlag:
    """The last of the counters of ``FinishTables``, of one layout; none as long as no device has sent anything."""

    def __init__(self) -> None:
        self._flag: Tensor | None = None
        self._counters: Tensor | None = None
        self._steps = 0  # that have sent something since the last copy, or since the hosts have heard
        self._arrival: Arrival | None = None
        self._is_in_graph = False

    def count(self, counters: Tensor) -> None:
        """Counts a step that sends something. ``counters`` are others where the parameters have moved."""
        if counters is not self._counters:
            before, self._counters, self._flag = self._flag, counters, counters[-1]
            with torch.inference_mode():  # in which they may have been made
                self._flag.zero_() if before is None else self._flag.copy_(before)
        self._steps += 1
        self._is_in_graph |= _is_capturing(counters)

    def is_heard(self) -> bool:
        """At the beginning of a step: whether the hosts hear that they have disagreed. It is over then."""
        if self._flag is None or _is_capturing(self._flag):
            return False
        if self._is_in_graph:  # which counts no steps
            found = bool(self._flag)
        elif self._steps < EVERY:
            return False
        else:
            found = self._arrival is not None and self._arrival.wait() != 0
            self._arrival, self._steps = Arrival(self._flag), 0
        if found:
            with torch.inference_mode():
                self._flag.zero_()
            self._arrival, self._steps = None, 0
        return found

    def leaves_out(self, is_alike: bool) -> bool:
        """Where exchanges were repeated in the place of a step: whether it is left out; waits for the device.
        ``is_alike``: the processes agree."""
        assert self._flag is not None, "an exchange is repeated that no device has sent"
        if not is_alike:
            with torch.inference_mode():
                self._flag.fill_(1)
        self._steps += 1
        return bool(self._flag)


def _is_capturing(tensor: Tensor) -> bool:
    return tensor.is_cuda and torch.cuda.is_current_stream_capturing()
