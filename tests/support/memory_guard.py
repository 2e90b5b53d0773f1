"""Tensors of every layout inside larger buffers whose remaining elements are watched.

What lies outside a tensor is NaN: a kernel that reads there spoils its result, and one that writes there is found by
``Guarded.check``, which compares the bits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

MARGIN = 24
"""Watched elements on each side: more than two vectors of the widest kind."""

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def bits(tensor: Tensor) -> Tensor:
    """The same memory as integers, so that NaN equals NaN and -0.0 does not equal 0.0; on the CPU."""
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    return tensor.detach().contiguous().view(_BITS[tensor.element_size()]).cpu()


def same_bits(a: Tensor, b: Tensor) -> bool:
    """True when both tensors have the same dtype, shape and bits."""
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(bits(a), bits(b))


def contiguous_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The strides of a fresh tensor of this shape."""
    return torch.empty(shape, device="meta").stride()


@dataclass(frozen=True)
class Guarded:
    """A tensor, the flat buffer that it lies in, and a copy of the buffer's other elements."""

    view: Tensor
    buffer: Tensor
    outside: Tensor
    before: Tensor

    @classmethod
    def of(
        cls,
        values: Tensor,
        strides: tuple[int, ...] | None = None,
        offset: int = 0,
        device: torch.device | None = None,
    ) -> Guarded:
        """A guarded copy of ``values`` with these strides, ``offset`` elements off a vector boundary.

        It lies on the device, or where the values do. Strides of 0 keep the first of the values that share an element.
        """
        strides = contiguous_strides(tuple(values.shape)) if strides is None else strides
        extent = 0 if values.numel() == 0 else 1 + sum((n - 1) * s for n, s in zip(values.shape, strides))
        buffer = torch.full((MARGIN + offset + extent + MARGIN,), float("nan"), dtype=values.dtype)
        buffer = buffer.to(values.device if device is None else device)
        view = buffer.as_strided(tuple(values.shape), strides, MARGIN + offset)
        outside = torch.ones(buffer.numel(), dtype=torch.bool)
        outside.as_strided(tuple(values.shape), strides, MARGIN + offset).fill_(False)
        for dim, stride in enumerate(strides):
            if stride == 0 and values.shape[dim] > 1:
                values = values.narrow(dim, 0, 1).expand_as(values)
        distinct = [slice(0, 1) if stride == 0 else slice(None) for stride in strides]
        view[tuple(distinct)].copy_(values[tuple(distinct)])
        return cls(view, buffer, outside, bits(buffer)[outside])

    def check(self, label: str) -> None:
        """Fails when anything outside the tensor has changed."""
        now = bits(self.buffer)[self.outside]
        assert torch.equal(now, self.before), f"{label}: {int((now != self.before).sum())} elements outside it changed"


@dataclass(frozen=True)
class Layout:
    """How one parameter and its gradients lie in memory, and in which steps it has no gradient.

    Args:
        name: what is awkward about it.
        shape: the parameter's shape.
        strides: the parameter's strides; None for contiguous.
        offset: elements by which the parameter is off a vector boundary.
        grad_strides: the gradient's strides; None for the parameter's own.
        grad_offset: elements by which the gradient is off a vector boundary.
        absent: the steps (1, 2, ...) in which ``.grad`` is None.
    """

    name: str
    shape: tuple[int, ...]
    strides: tuple[int, ...] | None = None
    offset: int = 0
    grad_strides: tuple[int, ...] | None = None
    grad_offset: int = 0
    absent: frozenset[int] = field(default_factory=frozenset)

    @property
    def numel(self) -> int:
        """How many elements the parameter has."""
        return torch.Size(self.shape).numel()

    def guard_parameter(self, values: Tensor, device: torch.device) -> Guarded:
        """A guarded parameter with these values."""
        return Guarded.of(values, self.strides, self.offset, device)

    def guard_gradient(self, values: Tensor, device: torch.device) -> Guarded:
        """A guarded gradient with these values."""
        strides = self.strides if self.grad_strides is None else self.grad_strides
        return Guarded.of(values, strides, self.grad_offset, device)


STEPS = 8
ALWAYS = frozenset(range(1, STEPS + 1))

AWKWARD = (
    Layout("empty", (0,)),
    Layout("empty_matrix", (3, 0)),
    Layout("scalar", ()),
    Layout("one", (1,), offset=1),
    # Sizes around 4, 8, 16, 32 and 64 elements, the vector widths and their unrolled multiples, off a vector boundary;
    # on it, two sizes without a tail.
    *(Layout(f"aligned_{n}", (n,)) for n in (8, 64)),
    *(Layout(f"misaligned_{n}", (n,), offset=1, grad_offset=3) for n in (3, 7, 9, 15, 17, 31, 33, 65)),
    Layout("gradient_misaligned", (257,), grad_offset=1),
    Layout("many_rows", (33, 61)),
    Layout("channels_last", (2, 3, 5, 4), strides=(60, 1, 12, 3)),
    Layout("transposed", (5, 7), strides=(1, 5)),
    Layout("stray_strides_of_one", (1, 6, 1), strides=(999, 1, 7)),
    Layout("rows_with_gaps", (6, 10), strides=(16, 1)),
    Layout("every_third", (19,), strides=(3,), offset=2),
    Layout("transposed_with_gaps", (4, 5), strides=(1, 8)),
    Layout("gradient_transposed", (6, 8), grad_strides=(1, 6)),
    Layout("gradient_contiguous", (2, 3, 4, 5), strides=(60, 1, 15, 3), grad_strides=(60, 20, 5, 1)),
    Layout("gradient_with_gaps", (6, 10), grad_strides=(20, 2)),
    Layout("gaps_but_gradient_dense", (6, 10), strides=(16, 1), grad_strides=(10, 1)),
    Layout("gradient_expanded", (5, 9), grad_strides=(0, 1)),
    Layout("gradient_all_one_element", (5, 9), grad_strides=(0, 0)),
    Layout("missing_at_times", (41,), absent=frozenset({3, 4, 7})),
    Layout("late", (2, 21), absent=frozenset({1, 2, 3})),
    Layout("missing_after_load", (23,), absent=frozenset({5, 6})),
    Layout("never", (13,), absent=ALWAYS),
)
"""One optimizer holds all of these; even positions are its first param group, odd ones its second."""

FEW = tuple(
    layout
    for layout in AWKWARD
    if layout.name
    in (
        *("empty", "scalar", "aligned_64", "misaligned_9", "many_rows", "channels_last", "gradient_misaligned"),
        *("rows_with_gaps", "gradient_transposed", "gradient_expanded", "missing_at_times", "late", "never"),
    )
)
"""One of each kind, for a backend that is interpreted."""


def around_chunks(chunks: tuple[int, ...]) -> tuple[Layout, ...]:
    """Sizes of one chunk, one element less and one more, and three chunks and a tail."""
    sizes = sorted({size for chunk in chunks for size in (chunk - 1, chunk, chunk + 1)} | {3 * max(chunks) + 7})
    return tuple(Layout(f"size_{n}", (n,), offset=n % 2) for n in sizes)


def largest_allocation(call: Callable[[], object]) -> int:
    """The size in bytes of the largest block that ``call`` asks torch's CPU allocator for."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        call()
    return max((event.nbytes() for event in profile.profiler.kineto_results.events()), default=0)
