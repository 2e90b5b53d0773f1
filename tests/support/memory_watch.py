"""Where tensors lie while a session goes on, and what memory must stay as it is meanwhile."""

from __future__ import annotations

import enum
import functools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from memory_guard import Guarded, bits


class Place(enum.Enum):
    """How a tensor lies in memory."""

    CONTIGUOUS = enum.auto()
    MISALIGNED = enum.auto()
    TRANSPOSED = enum.auto()
    CHANNELS_LAST = enum.auto()
    GAPS = enum.auto()
    TRANSPOSED_WITH_GAPS = enum.auto()
    EXPANDED = enum.auto()
    """For gradients alone."""

    @functools.cache
    def strides(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The strides of a tensor of this shape."""
        dims = list(range(len(shape)))
        if self in (Place.TRANSPOSED, Place.TRANSPOSED_WITH_GAPS):
            dims.reverse()
        elif self is Place.CHANNELS_LAST and len(dims) > 2:
            dims.append(dims.pop(1))
        strides = torch.empty_permuted(shape, dims, device="meta").stride()
        if self is Place.EXPANDED:
            return (0, *strides[1:]) if dims else ()
        gap = 2 if self in (Place.GAPS, Place.TRANSPOSED_WITH_GAPS) else 1
        return tuple(gap * stride for stride in strides)

    def guard(self, values: Tensor) -> Guarded:
        """A watched copy of the values that lies so."""
        offset = 1 if self in (Place.MISALIGNED, Place.GAPS) else 0
        return Guarded.of(values.detach(), self.strides(tuple(values.shape)), offset)


@dataclass(frozen=True)
class Leaf:
    """A parameter to be."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    place: Place


@dataclass
class Watched:
    """A guarded tensor, and who says which tensor is in its place by now."""

    label: str
    guard: Guarded
    current: Callable[[], Tensor | None]

    @property
    def is_in_use(self) -> bool:
        tensor, view = self.current(), self.guard.view
        return tensor is not None and tensor.data_ptr() == view.data_ptr() and tensor.stride() == view.stride()


class Watch:
    """Memory around tensors in use, and all memory of those that were in use, which nobody may write to."""

    def __init__(self) -> None:
        self.used: list[Watched] = []
        self.abandoned: deque[tuple[str, Tensor, Tensor]] = deque(maxlen=12)

    def add(self, label: str, guard: Guarded, current: Callable[[], Tensor | None]) -> None:
        self.used.append(Watched(label, guard, current))

    def settle(self) -> None:
        """Before a step: sets aside what is no longer in use."""
        left = [watched for watched in self.used if not watched.is_in_use]
        self.used = [watched for watched in self.used if watched.is_in_use]
        for watched in left:
            self.abandoned.append((watched.label, watched.guard.buffer, bits(watched.guard.buffer)))

    def check(self) -> None:
        for watched in self.used:
            watched.guard.check(watched.label)
        for label, buffer, before in self.abandoned:
            assert torch.equal(bits(buffer), before), f"{label}: memory that it no longer lies in was written"
