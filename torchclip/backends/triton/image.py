"""Tables that the host writes and a device reads, in one piece of memory."""

from __future__ import annotations

import torch
from torch import Tensor

GRAIN = 2
"""Sections begin at multiples of 16 bytes."""

CAPTURES, UPLOADS = 2, 4
"""Page-locked buffers for captures with no step between them, and for uploads that are on their way at once."""


class DeviceImage:
    """Named sections of int64 or float64 numbers, of which only what has changed is uploaded.

    Uploads go through page-locked memory in the order of the stream, without waiting, so that a CUDA graph can capture
    them: a captured upload writes the same numbers at every replay. Since the host knows nothing of replays, what may
    change from step to step is uploaded in every step once a graph has captured one.

    Args:
        sizes: for each section how many numbers it holds.
        device: where it lies.
    """

    def __init__(self, sizes: dict[str, int], device: torch.device) -> None:
        self._sections: dict[str, slice] = {}
        end = 0
        for name, size in sizes.items():
            self._sections[name] = slice(end, end + size)
            end += -(-size // GRAIN) * GRAIN
        self._is_gpu = device.type != "cpu"
        self._host = torch.zeros(max(end, GRAIN), dtype=torch.int64, device="cpu")
        self.memory = torch.zeros(max(end, GRAIN), dtype=torch.int64, device=device)
        # Buffers that no upload has used: in a capture none should be allocated.
        self._spares = [self._pinned() for _ in range(CAPTURES)] if self._is_gpu else []
        self._in_graphs: list[Tensor] = []
        # torch keeps freed ones for the uploads to come: to allocate one may wait for the device.
        freed = [self._pinned() for _ in range(UPLOADS)] if self._is_gpu else []
        del freed
        self._dirty = slice(0, 0)

    def _pinned(self) -> Tensor:
        return torch.empty_like(self._host, pin_memory=True)

    @property
    def is_in_graph(self) -> bool:
        """Whether a CUDA graph holds addresses of this memory."""
        return bool(self._in_graphs)

    def integers(self, name: str) -> Tensor:
        """A section on the device, int64."""
        return self.memory[self._sections[name]]

    def numbers(self, name: str) -> Tensor:
        """A section on the device, float64."""
        return self.integers(name).view(torch.float64)

    def address(self, name: str) -> int:
        """Of a section on the device."""
        start: int = self._sections[name].start
        return self.memory.data_ptr() + 8 * start

    def set(self, name: str, values: Tensor, *, changes_by_step: bool = False) -> None:
        """Replaces a section by numbers on the host, any shape.

        Args:
            name: of the section.
            values: int64 or float64.
            changes_by_step: it may be other in the next step.
        """
        section = self._sections[name]
        if section.start == section.stop:
            return
        flat = values.reshape(-1).view(torch.int64)
        if torch.equal(self._host[section], flat) and not (changes_by_step and self.is_in_graph):
            return
        self._host[section] = flat
        self._mark(section)

    def _mark(self, section: slice) -> None:
        if self._dirty.start == self._dirty.stop:
            self._dirty = section
        else:
            self._dirty = slice(min(self._dirty.start, section.start), max(self._dirty.stop, section.stop))

    def upload(self, *, capturing: bool, changing: tuple[str, ...]) -> None:
        """Brings the device up to date.

        Args:
            capturing: a graph captures this step.
            changing: the sections that another step may change, which a graph has to write itself.
        """
        if capturing:
            for name in changing:
                if self._sections[name].start < self._sections[name].stop:
                    self._mark(self._sections[name])
        if self._dirty.start == self._dirty.stop:
            return
        section = self._dirty
        if not capturing:  # else it is recorded and not written: the next step that is taken writes it
            self._dirty = slice(0, 0)
        if not self._is_gpu:
            self.memory[section] = self._host[section]
            return
        buffer = self._spares.pop() if capturing and self._spares else self._pinned()
        buffer[section] = self._host[section]
        self.memory[section].copy_(buffer[section], non_blocking=True)
        if capturing:
            self._in_graphs.append(buffer)
        while not capturing and len(self._spares) < CAPTURES:
            self._spares.append(self._pinned())
