"""Numbers on their way from a device to the host, which does not wait for them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Arrival:
    """One set of numbers at a time."""

    def __init__(self) -> None:
        self._numbers: Tensor | None = None
        self._event: Any = None
        self._is_sent = False

    def send(self, numbers: Tensor) -> None:
        """Copies numbers behind what the device has to do so far; nothing where others were not taken yet, and within a
        graph that is being captured.

        Args:
            numbers: as many each time, on the same device.
        """
        if self._is_sent or (numbers.is_cuda and torch.cuda.is_current_stream_capturing()):
            return
        if self._numbers is None:
            self._numbers = torch.empty(numbers.shape, dtype=numbers.dtype, device="cpu", pin_memory=numbers.is_cuda)
            self._event = torch.cuda.Event() if numbers.is_cuda else None
        self._numbers.copy_(numbers, non_blocking=True)
        if self._event is not None:
            self._event.record(torch.cuda.current_stream(numbers.device))
        self._is_sent = True

    def take(self) -> list[float] | None:
        """The numbers, once; None where there are none, or they have not come yet."""
        if not self._is_sent or self._numbers is None:
            return None
        if self._event is not None and (torch.cuda.is_current_stream_capturing() or not self._event.query()):
            return None
        self._is_sent = False
        return self._numbers.tolist()
