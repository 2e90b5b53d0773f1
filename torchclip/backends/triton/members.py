"""What a fused step reads of a parameter: its gradient, its state, and how to walk them.

The rules are those of ``csrc/parameter_reader.cpp`` and ``csrc/examine.cpp``, for where there is no extension.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch import Tensor

from torchclip.backends.triton.kinds import Check, is_number, is_plain, never_same, same_objects
from torchclip.rules.norms import Scope
from torchclip.state.real_view import real_dtype, real_view
from torchclip.state.tensor_checks import DTYPES, FLOAT_DTYPES, may_overlap

SUM_SLOT = 1
"""The slot of a rule that sums norms which holds the sums."""

_HALF_DTYPES = (torch.bfloat16, torch.float16)

Layout = tuple[tuple[int, ...], ...]
"""Sizes, then the strides of parameter, gradient, three state tensors and slow weights, () where one is absent; the
outermost dimension first, in the parameter's own order."""

Description = tuple[int, int, int, int, int, "Layout | None", int, int, bool, tuple[bool, bool]]
"""Group, dtype, state dtype, used slots, elements, layout (None where all are dense alike), count and inner size of
the rows, and whether the sums and each of two numbers of state are float64."""


@dataclass(frozen=True)
class Wanted:
    """What is read of every parameter.

    Args:
        device: the type of the device on which everything lies.
        slots: the rule's state tensors, without Lookahead's.
        scalars: the rule's numbers of state.
        sums: where the rule keeps sums that are not elements like the parameter's own: TENSOR, ROW, or None.
        takes_complex: whether the rule updates complex parameters.
        lookahead: whether there are slow weights.
        by_rows: whether the step clips by rows.
    """

    device: str
    slots: tuple[str, ...]
    scalars: tuple[str, ...]
    sums: Scope | None
    takes_complex: bool
    lookahead: bool = False
    by_rows: bool = False

    def sums_apart(self, parameter: Tensor) -> bool:
        """Whether the sums of a parameter are not elements like its own."""
        return self.sums is Scope.TENSOR or (self.sums is Scope.ROW and parameter.ndim >= 2)

    def used_slots(self, of_group: int, parameter: Tensor) -> int:
        """The slots that a parameter needs, a bit each; below two dimensions a row's sums are a slot like others."""
        return of_group | 1 << SUM_SLOT if self.sums is Scope.ROW and parameter.ndim < 2 else of_group

    def needs_state(self, used_slots: int) -> bool:
        """Whether a parameter with these slots has any state."""
        return used_slots != 0 or bool(self.scalars) or self.lookahead or self.sums is not None


@dataclass
class Member:
    """One parameter, with what was last seen of its gradient and state."""

    parameter: Tensor
    group: int
    state: dict[str, Any] | None = None  # optimizer.state[parameter]
    seen: list[Any] | None = None  # what `state` had for the rule when it was read
    check: Check | None = None  # that it can still step; None where there was no gradient, never_same where it cannot
    used_slots: int = 0
    slots: list[Tensor | None] = field(default_factory=list)
    scalars: list[Tensor | None] = field(default_factory=list)
    slow: Tensor | None = None
    sums: Tensor | None = None
    description: Description | None = None

    @property
    def can_step(self) -> bool:
        """It has a gradient, and was found to be served by the last refresh."""
        return self.check is not None and self.check is not never_same

    def used(self) -> list[Tensor | None]:
        """The state tensors that are elements like the parameter's own, None for one that its group does not use."""
        return [tensor if self.used_slots >> slot & 1 else None for slot, tensor in enumerate(self.slots)]

    def operands(self) -> tuple[Tensor | None, ...]:
        """The parameter, its state tensors, slow weights and sums, None for one that is absent."""
        return (self.parameter, *self.used(), self.slow, self.sums)

    def watched(self) -> list[Tensor]:
        """Those that there are: the tensors besides the gradient whose kinds were examined."""
        return [tensor for tensor in self.operands() if tensor is not None]

    def state_is_as_seen(self, wanted: Wanted) -> bool:
        """Whether the state dict holds the tensors that were read, whatever else the user keeps there."""
        return self.state is not None and self.seen is not None and same_objects(self._entries(wanted), self.seen)

    def _entries(self, wanted: Wanted) -> list[Any]:
        """What the state dict has for the rule."""
        assert self.state is not None
        return [self.state.get(name) for name in (*wanted.slots, *wanted.scalars, "slow")]

    def read_state(self, wanted: Wanted) -> None:
        """Takes the tensors out of the state dict."""
        state = self.state
        assert state is not None
        self.seen = self._entries(wanted)
        self.slots = [_tensor_or_none(state.get(name)) for name in wanted.slots]
        self.scalars = [_tensor_or_none(state.get(name)) for name in wanted.scalars]
        self.slow = _tensor_or_none(state.get("slow")) if wanted.lookahead else None
        self.sums = None
        if wanted.sums_apart(self.parameter):
            self.sums, self.slots[SUM_SLOT] = self.slots[SUM_SLOT], None

    def forget_state(self) -> None:
        """Lets go of the tensors."""
        self.slots, self.scalars, self.slow, self.sums, self.seen = [], [], None, None, None


def _tensor_or_none(value: Any) -> Tensor | None:
    return value if isinstance(value, Tensor) else None


def examine(member: Member, gradient: Tensor, wanted: Wanted) -> bool:
    """Whether a fused step serves the parameter, its gradient and state; describes them if it does."""
    parameter, state = member.parameter, member.used()
    served = DTYPES if wanted.takes_complex else FLOAT_DTYPES
    if parameter.dtype not in served or not is_plain(parameter, wanted.device):
        return False
    held = (*state, *member.scalars, member.slow, member.sums)
    if any(tensor is not None and tensor.is_inference() for tensor in (parameter, *held)):
        return False  # which torch lets nobody write

    def is_beside(tensor: Tensor) -> bool:
        return is_plain(tensor, wanted.device) and tensor.device == parameter.device

    written = [tensor for slot, tensor in enumerate(state) if member.used_slots >> slot & 1]
    if wanted.lookahead:
        written.append(member.slow)
    operands = [gradient, *written]
    if not all(tensor is not None and is_beside(tensor) and tensor.shape == parameter.shape for tensor in operands):
        return False
    if gradient.dtype != parameter.dtype or not _state_dtypes_fit(member, state, wanted):
        return False
    if not all(scalar is not None and is_beside(scalar) and is_number(scalar, 1) for scalar in member.scalars):
        return False
    if wanted.sums_apart(parameter):
        count = 1 if wanted.sums is Scope.TENSOR else parameter.shape[0]
        sums = member.sums
        if sums is None or not (is_beside(sums) and is_number(sums, count) and sums.is_contiguous()):
            return False
    if any(tensor is not None and may_overlap(tensor) for tensor in (parameter, *written)):
        return False
    member.description = _describe(member, gradient, state, wanted)
    return True


def _state_dtypes_fit(member: Member, state: Sequence[Tensor | None], wanted: Wanted) -> bool:
    """Half-precision parameters may have float32 state; otherwise the state is of the parameter's type."""
    own = member.parameter.dtype
    dtypes = {tensor.dtype for tensor in state if tensor is not None} or {own}
    if not (dtypes == {own} or (own in _HALF_DTYPES and dtypes == {torch.float32})):
        return False
    full = torch.promote_types(own, torch.float32)
    return not wanted.lookahead or (member.slow is not None and member.slow.dtype is full)


def _describe(member: Member, gradient: Tensor, state: Sequence[Tensor | None], wanted: Wanted) -> Description:
    whole = (member.parameter, gradient, *[*state, None, None, None][:3], member.slow)
    tensors = [None if tensor is None else real_view(tensor) for tensor in whole]
    parameter = real_view(member.parameter)
    sizes, order = parameter.shape, _order(parameter)
    strides = [() if tensor is None else tensor.stride() for tensor in tensors]
    dense = _is_dense(parameter) and all(
        _same_walk(sizes, strides[0], tensor.stride()) for tensor in tensors if tensor is not None
    )
    layout = None
    if not dense:
        layout = tuple(tuple([numbers[i] for i in order]) if numbers else () for numbers in (tuple(sizes), *strides))
    has_rows = wanted.lookahead or wanted.by_rows or wanted.sums is not None
    count, inner = _rows(sizes, order, member.parameter.ndim) if has_rows else (0, 1)
    dtype = FLOAT_DTYPES.index(parameter.dtype)
    of_state = next((FLOAT_DTYPES.index(real_dtype(tensor.dtype)) for tensor in state if tensor is not None), dtype)
    is_double = [scalar is not None and scalar.dtype is torch.float64 for scalar in (*member.scalars, None, None)]
    sum_is_double = member.sums is not None and member.sums.dtype is torch.float64
    doubles = (is_double[0], is_double[1])
    used, numel = member.used_slots, parameter.numel()
    return member.group, dtype, of_state, used, numel, layout, count, inner, sum_is_double, doubles


def _order(tensor: Tensor) -> list[int]:
    """The dimensions, the one with the largest stride first."""
    strides = tensor.stride()
    return sorted(range(len(strides)), key=lambda dimension: -strides[dimension])


def _is_dense(tensor: Tensor) -> bool:
    """Whether the elements fill a block of memory, in any order of dimensions."""
    extent = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1 and stride != extent:
            return tensor.numel() == 0
        extent *= size
    return True


def _same_walk(sizes: Sequence[int], a: Sequence[int], b: Sequence[int]) -> bool:
    """Equal strides wherever a dimension has more than one element."""
    return a == b or all(size <= 1 or x == y for size, x, y in zip(sizes, a, b, strict=True))


def _rows(sizes: Sequence[int], order: Sequence[int], dimensions: int) -> tuple[int, int]:
    """How many rows of the leading dimension there are, and how many elements of one follow one another.

    Args:
        sizes: of the real view.
        order: of its dimensions, from the outermost to the innermost.
        dimensions: of the parameter itself.
    """
    if dimensions < 2 or sizes[0] == 1:
        return 1, max(prod(sizes), 1)
    inside = order[order.index(0) + 1 :]
    return sizes[0], max(prod(sizes[dimension] for dimension in inside), 1)
