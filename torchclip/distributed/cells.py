"""The sums of a compiled plan's step as it hands them over, and what adds them up over processes.

A plan sums into cells: one for each unit of a scope and each set of processes that its parameters go over. Rows that
are split have places behind the cells. Every exchange ends in the zeros that thresholds go by, in cells of their own,
and in four numbers that all processes have; behind them are the three that the processes agree by. See
``csrc/step/exchange_layout.h``, which has the same layout.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from torchclip.distributed.agreed import Agreed
from torchclip.distributed.exchange import Over, added, is_capturable
from torchclip.distributed.layout import Layout
from torchclip.rules.norms import Scope

IN_CELL, IN_ROW, IN_ZEROS, COMMON, AGREED = 3, 2, 2, 4, 3


class Segment(NamedTuple):
    """Some of the numbers: [begin, end), and the processes that they are added over."""

    begin: int
    end: int
    over: Over


class Addition:
    """Adds the numbers of one exchange up over processes, in place.

    Args:
        segments: of all but the common numbers; those over no process stay.
        count: how many those are.
        sums: over which processes there are sums, in an order that is the same in all of them.
        loss_over: over which the loss is averaged, the last of the common numbers.
        agreed: what the processes have agreed on; None where nobody asks.
    """

    def __init__(
        self,
        segments: Sequence[Segment],
        count: int,
        sums: Sequence[Over],
        loss_over: Over,
        agreed: Agreed | None = None,
    ) -> None:
        self._sums, self._count, self._loss_over, self._agreed = list(sums), count, loss_over, agreed
        self._segments = [each for each in segments if each.end > each.begin]
        is_one = len(self._sums) == 1 and all(each.over == self._sums[0] for each in self._segments)
        self._is_one = is_one and loss_over in ((), self._sums[0])
        self._device: torch.device | None = None  # where the numbers lie; None: the host adds them up

    @property
    def is_capturable(self) -> bool:
        """Whether a CUDA graph can capture it."""
        over = {processes for each in (*self._sums, self._loss_over) for processes in each}
        return all(map(is_capturable, over))

    @property
    def number(self) -> int:
        """What this process goes by, of the three that a device sends."""
        return 0 if self._agreed is None else self._agreed.numbers[1]

    def __call__(self, numbers: Any, counters: Tensor | None = None) -> None:
        """Takes float64 numbers: a writable buffer, with room behind them for what the processes agree by, or a tensor
        on a device, which has that, and of which nothing is waited for.

        Args:
            numbers: become those of all processes.
            counters: of the device, see ``FinishTables``.

        Raises:
            RuntimeError: in every process, where they do not agree any more, and the host adds up.
        """
        if isinstance(numbers, Tensor):
            self._device = numbers.device
            loss = self._add_sums(numbers)
            if self._agreed is not None and counters is not None:
                self._agreed.sent(counters, self._again)
            self._add_loss(numbers, loss)
            return
        doubles, count = memoryview(numbers).cast("B").cast("d"), self._count + COMMON
        if self._agreed is not None:
            doubles[count], doubles[count + 1], doubles[count + 2] = self._agreed.numbers
        values = torch.frombuffer(numbers, dtype=torch.float64)
        loss = self._add_sums(values)
        if self._agreed is not None:  # before the losses, of which a process that has changed something adds up none
            self._agreed.settle(doubles[count:].tolist(), self._again)
        self._add_loss(values, loss)

    def _again(self) -> list[float]:
        """See :data:`torchclip.distributed.agreed.Again`."""
        assert self._agreed is not None, "nobody else says that an exchange is to be repeated"
        own = torch.tensor(self._agreed.numbers, dtype=torch.float64, device="cpu")
        values = torch.cat([torch.zeros(self._count + COMMON, dtype=torch.float64, device="cpu"), own])
        values = values.to(self._device or "cpu")
        loss = self._add_sums(values)
        if self._device is not None:  # the host of the others knows before
            self._add_loss(values, loss)
        return values[-AGREED:].tolist()

    def _add_sums(self, values: Tensor) -> Tensor | None:
        """Returns this process's loss, or the mean, where it is not with the other numbers already."""
        if self._is_one:
            _write(values, added(values, self._sums[0]))
            return None
        loss_at = self._count + COMMON - 1
        own_loss = loss = values[loss_at].clone()
        for over in self._sums:
            # Of the other common numbers it is asked whether they are 0, and those behind may be counted more than
            # once, too.
            values[loss_at] = own_loss
            ranges = [(each.begin, each.end) for each in self._segments if each.over == over]
            self._add(values, [*ranges, (self._count, len(values))], over)
            loss = values[loss_at].clone() if over == self._loss_over else loss
        return loss

    def _add_loss(self, values: Tensor, loss: Tensor | None) -> None:
        if loss is None:
            return
        if self._loss_over not in (*self._sums, ()):
            loss = added(loss.reshape(1), self._loss_over)[0]
        values[self._count + COMMON - 1] = loss

    def _add(self, values: Tensor, ranges: Sequence[tuple[int, int]], over: Over) -> None:
        joined = added(torch.cat([values[begin:end] for begin, end in ranges]), over)
        for (begin, end), part in zip(ranges, joined.split([end - begin for begin, end in ranges]), strict=True):
            values[begin:end] = part


def _write(values: Tensor, added: Tensor) -> None:
    if added is not values:
        values.copy_(added)


class Cells(NamedTuple):
    """As the plan is told of them.

    Args:
        of, share: [parameters], the cell that each counts in, and what part of this process's sum does.
        units: [cells], the unit of the scope that each is a part of.
        rows: [parameters], for each local row its place among all that are sent; empty where they are whole.
        row_count: how many such places there are.
        add: what adds them up.
    """

    of: list[int]
    share: list[float]
    units: list[int]
    rows: list[list[int]]
    row_count: int
    add: Addition


class ZeroCells(NamedTuple):
    """The cells of zeros: as those of ``Cells``, of param groups.

    Args:
        of, share: [parameters].
        units: [cells], the param group of each.
        overs: [cells], the processes that each is added over.
    """

    of: Sequence[int] = ()
    share: Sequence[float] = ()
    units: Sequence[int] = ()
    overs: Sequence[Over] = ()


NO_ZEROS = ZeroCells()
"""Of a rule that counts none."""


def zero_cells_of(layout: Layout, group_sizes: Sequence[int]) -> ZeroCells:
    """Those of a rule whose thresholds may go by zeros."""
    of, share, units, overs = _cells_of_groups(layout, group_sizes, Scope.GROUP)
    return ZeroCells(of, share, units, overs)


def _segments_of_zeros(zeros: ZeroCells, begin: int) -> list[Segment]:
    return [
        Segment(begin + IN_ZEROS * cell, begin + IN_ZEROS * (cell + 1), over) for cell, over in enumerate(zeros.overs)
    ]


def common_of(layout: Layout, loss_over: Over, zeros: ZeroCells) -> Addition:
    """What adds up what every exchange ends in alone."""
    segments = _segments_of_zeros(zeros, 0)
    return Addition(_joined(segments), IN_ZEROS * len(segments), layout.sums, loss_over, layout.agreed)


def _cells_of_groups(
    layout: Layout, group_sizes: Sequence[int], scope: Scope
) -> tuple[list[int], list[float], list[int], list[Over]]:
    """Of sums over the optimizer, or over each param group: ``of``, ``share``, ``units`` and the processes."""
    keys = layout.norms
    groups = [group for group, size in enumerate(group_sizes) for _ in range(size)]
    count = len(group_sizes) if scope is Scope.GROUP else 1
    own_units = groups if scope is Scope.GROUP else [0] * len(layout.owners)
    of = [keys.index(owner.norm) * count + unit for owner, unit in zip(layout.owners, own_units, strict=True)]
    share, units = [owner.norm_share for owner in layout.owners], [*range(count)] * len(keys)
    return of, share, units, [key for key in keys for _ in range(count)]


def cells_of(
    layout: Layout,
    scope: Scope,
    group_sizes: Sequence[int],
    loss_over: Over,
    zeros: ZeroCells = NO_ZEROS,
    *,
    least_dimensions: int = 0,
) -> Cells:
    """Those of one norm pass.

    Args:
        layout: the optimizer's.
        scope: over which elements norms are taken.
        group_sizes: the number of parameters in each group.
        loss_over: over which processes the loss is averaged.
        zeros: the cells that every exchange ends in.
        least_dimensions: of the parameters whose rows are looked at.
    """
    owners = layout.owners
    if scope is Scope.TENSOR:
        of, units = list(range(len(owners))), list(range(len(owners)))
        share, overs = [owner.tensor_share for owner in owners], [owner.tensor for owner in owners]
    else:
        of, share, units, overs = _cells_of_groups(layout, group_sizes, scope)
    segments = [Segment(IN_CELL * cell, IN_CELL * (cell + 1), over) for cell, over in enumerate(overs)]
    rows: list[list[int]] = [[] for _ in owners]
    row_count, begin = 0, IN_CELL * len(units)
    for index, local in (layout.split_rows if scope is Scope.ROW else {}).items():
        if layout.parameters[index].ndim >= least_dimensions:
            rows[index] = (local + row_count).tolist()
            end = begin + IN_ROW * (row_count + layout.rows(index))
            segments.append(Segment(begin + IN_ROW * row_count, end, owners[index].tensor))
            row_count += layout.rows(index)
    of_zeros = _segments_of_zeros(zeros, begin + IN_ROW * row_count)
    segments += of_zeros
    numbers = begin + IN_ROW * row_count + IN_ZEROS * len(of_zeros)
    add = Addition(_joined(segments), numbers, layout.sums, loss_over, layout.agreed)
    return Cells(of, share, units, rows, row_count, add)


def _joined(segments: Sequence[Segment]) -> list[Segment]:
    """Neighbours that go over the same processes made one."""
    joined: list[Segment] = []
    for each in segments:
        if joined and joined[-1].over == each.over and joined[-1].end == each.begin:
            joined[-1] = Segment(joined[-1].begin, each.end, each.over)
        else:
            joined.append(each)
    return joined
