"""Which tensors a step updates, cut into chunks and sorted into runs: what the kernels' tables say.

The numbering of the columns is that of ``kernels/tables.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from torchclip.backends.triton import columns
from torchclip.backends.triton.blocks import Block
from torchclip.kernels.tables import Run
from torchclip.rules.norms import Scope
from torchclip.state.tensor_checks import FLOAT_DTYPES

SMALLEST_CHUNK = 4096
LARGEST_CHUNK = 65536
CHUNKS_WANTED = 2048  # several for each multiprocessor
DRAWS = columns.GRADIENT_DROPOUT | columns.GRADIENT_NOISE | columns.LR_DROPOUT
"""The stages that draw, which take registers."""
ROWS_TOGETHER = 16
"""Whole rows that a program takes one after the other, whatever their length."""


def chunk_size(elements: int) -> int:
    """Elements of a chunk, which a program of a norm pass takes: from the total alone, so that partial sums do not
    depend on the device."""
    grain = columns.CHUNK_GRAIN
    return min(max(elements // CHUNKS_WANTED // grain * grain, SMALLEST_CHUNK), LARGEST_CHUNK)


Layout = tuple[tuple[int, ...], ...]
"""Sizes, then the strides of parameter, gradient, three state tensors and slow weights, () where one is absent; the
outermost dimension first, in the parameter's own order."""

Description = tuple[int, int, int, int, int, "Layout | None", int, int, bool, tuple[bool, bool]]
"""The fields of :class:`Member`, as ``Gatherer.describe`` gives them."""


class Member(NamedTuple):
    """A parameter with a gradient.

    Args:
        group: of the parameter.
        dtype, state_dtype: in the numbering of ``kernels/tables.py``.
        used_slots: a bit for each state tensor in use.
        numel: how many elements it has.
        layout: None where all operands are dense alike.
        rows_count, rows_inner: how many rows it has, and how many elements of one follow one another.
        sum_is_double: whether AdaGradNorm's sums are float64, and not float32.
        scalar_is_double: the same of each number of state.
    """

    group: int
    dtype: int
    state_dtype: int
    used_slots: int
    numel: int
    layout: Layout | None
    rows_count: int
    rows_inner: int
    sum_is_double: bool
    scalar_is_double: tuple[bool, bool]


@dataclass(frozen=True)
class Shape:
    """What the tables depend on besides the parameters.

    Args:
        clips_rows: the policy is AdaptiveGradientClip.
        clips_norms: it measures norms of another kind.
        rule_rows: the rule takes its norms over rows.
        clip_scope: of the policy.
        measured_groups: of each param group, whether the pass for the policy looks at it.
        rule_scope: of a rule that clips itself.
        stages: of each param group.
        fresh: the first step with a state differs from others.
        row_per_tensor: coefficients are made for each tensor, and not for each group.
        scalars: numbers of state of each parameter.
        counts_zeros: the update counts exact zeros.
        lookahead: there are slow weights.
        family: the functor of the rule.
    """

    clips_rows: bool
    clips_norms: bool
    rule_rows: bool
    clip_scope: Scope
    measured_groups: tuple[bool, ...]
    rule_scope: Scope
    stages: tuple[int, ...]
    fresh: bool
    row_per_tensor: bool
    scalars: int
    counts_zeros: bool
    lookahead: bool
    family: str

    @property
    def by_rows(self) -> bool:
        """Whether norms of single rows are taken."""
        return self.clips_rows or self.rule_rows


@dataclass
class RunTables:
    """The chunks of tensors that one launch serves."""

    run: Run
    is_measured: bool  # by the pass for the clip policy
    chunks: list[tuple[int, ...]] = field(default_factory=list)
    row_chunks: list[tuple[int, ...]] = field(default_factory=list)

    @property
    def pieces(self) -> int:
        """Of the largest chunk: how many programs of the update share a chunk."""
        largest = max((chunk[columns.CHUNK_COUNT] for chunk in self.chunks), default=0)
        return -(-largest // self.run.piece)

    @property
    def zero_counts(self) -> int:
        """How many counts of zeros the update may write: one for each program, and one more where those of the next
        launch would not begin at a multiple of 16 bytes."""
        return -(-len(self.chunks) * self.pieces // 2) * 2


class Tables:
    """The tables of a step.

    Args:
        members: one for each parameter, None where it has no gradient.
        aligned: [parameters], whether all addresses of a parameter are multiples of 16.
        groups: how many param groups there are.
        shape: the rest.
        block: a program's size.
    """

    def __init__(
        self, members: Sequence[Member | None], aligned: Sequence[bool], groups: int, shape: Shape, block: Block
    ) -> None:
        self.shape = shape
        self.groups = groups
        self.positions = [position for position, member in enumerate(members) if member is not None]
        self.members = [member for member in members if member is not None]
        self.parameters = len(members)
        self.block = block
        self.size = chunk_size(sum(member.numel for member in self.members))
        self.layouts: list[int] = []
        self.row_total = 0
        self.partials = 0
        self.row_partials = 0
        self.runs: list[RunTables] = []
        self.sources: list[list[int]] = []
        self.long_rows: list[tuple[int, ...]] = []
        self.tensors = torch.zeros(len(self.members), columns.TENSOR_COLUMNS, dtype=torch.int64, device="cpu")
        runs = [self._add_tensor(index, aligned[position]) for index, position in enumerate(self.positions)]
        self._add_chunks(runs)
        if shape.by_rows:
            self._add_row_chunks(runs)
        # Launches of one kind follow one another.
        self.runs.sort(key=lambda tables: (not tables.is_measured, tables.run.dtype, tables.run.access))

    def units(self, scope: Scope) -> int:
        """How many units a scope has, each of which has norms of its own; rows are one unit here."""
        return {Scope.GROUP: self.groups, Scope.TENSOR: self.parameters}.get(scope, 1)

    def unit_of(self, scope: Scope, index: int) -> int:
        """The unit of a tensor."""
        return {Scope.GROUP: self.members[index].group, Scope.TENSOR: self.positions[index]}.get(scope, 0)

    def unit_chunks(self, scope: Scope) -> Tensor:
        """Where the partial sums of each unit begin, int64 [units + 1]. They are numbered as members are."""
        begins = torch.zeros(self.units(scope) + 1, dtype=torch.int64, device="cpu")
        for index, member in enumerate(self.members):
            begins[self.unit_of(scope, index) + 1] += -(-member.numel // self.size)
        return begins.cumsum(0)

    def chunk_table(self, name: str) -> Tensor:
        """``chunks`` or ``row_chunks`` of all runs, one after the other."""
        width = columns.CHUNK_COLUMNS if name == "chunks" else columns.ROW_CHUNK_COLUMNS
        rows = [chunk for tables in self.runs for chunk in getattr(tables, name)]
        return torch.tensor(rows, dtype=torch.int64, device="cpu").reshape(-1, width)

    def _add_tensor(self, index: int, is_aligned: bool) -> RunTables:
        member, shape, row = self.members[index], self.shape, self.tensors[index]
        row[columns.TENSOR_NUMEL] = member.numel
        row[columns.TENSOR_ROW] = self._row_of(index)
        row[columns.TENSOR_MEMBER] = self.positions[index]
        row[columns.TENSOR_INNER] = 1
        row[columns.TENSOR_FIRST_ROW] = self.row_total
        # Of a rule over rows, tensors below two dimensions keep sums of elements, and have no rows.
        if shape.clips_rows or (shape.rule_rows and not member.used_slots & 2):
            row[columns.TENSOR_ROWS], row[columns.TENSOR_INNER] = member.rows_count, member.rows_inner
            self.row_total += member.rows_count
        row[columns.TENSOR_SUM_IS_DOUBLE] = member.sum_is_double
        if member.layout is not None:
            row[columns.TENSOR_DIMENSIONS] = len(member.layout[0])
            row[columns.TENSOR_LAYOUT] = len(self.layouts)
            for numbers in member.layout:
                self.layouts += numbers or [0] * len(member.layout[0])
        return self._run_of(member, is_aligned)

    def _row_of(self, index: int) -> int:
        """The row of coefficients: one for each group, or for each tensor."""
        group = columns.SOURCE_GROUP
        member = self.members[index]
        if not self.shape.row_per_tensor and self.sources and self.sources[-1][group] == member.group:
            return len(self.sources) - 1
        source = [0] * columns.SOURCE_COLUMNS
        for scalar in range(self.shape.scalars):
            source[columns.SOURCE_IS_DOUBLE + scalar] = int(member.scalar_is_double[scalar])
        source[group] = member.group
        source[columns.SOURCE_CLIP_UNIT] = self.unit_of(self.shape.clip_scope, index)
        source[columns.SOURCE_RULE_UNIT] = self.unit_of(self.shape.rule_scope, index)
        source[columns.SOURCE_MEMBER] = self.positions[index]
        self.sources.append(source)
        return len(self.sources) - 1

    def _run_of(self, member: Member, is_aligned: bool) -> RunTables:
        access = columns.STRIDED if member.layout is not None else columns.ALIGNED if is_aligned else columns.ANYHOW
        size = FLOAT_DTYPES[member.dtype].itemsize
        run = Run(
            self.shape.family,
            member.used_slots,
            self.shape.stages[member.group],
            member.dtype,
            member.state_dtype,
            access,
            self.shape.lookahead,
            self.shape.counts_zeros,
            self.block.elements,
            self.block.piece_bytes // size,
        )
        if size == 2 and self._keeps_little(run):
            run = run._replace(block=self.block.half_elements)
        is_measured = self.shape.measured_groups[member.group]
        for tables in self.runs:
            if tables.run == run and tables.is_measured == is_measured:
                return tables
        self.runs.append(RunTables(run, is_measured))
        return self.runs[-1]

    def _keeps_little(self, run: Run) -> bool:
        """Whether an update has registers for more elements of half precision at a time, and reads them by groups."""
        few = run.slots.bit_count() <= 1 and run.state_dtype == run.dtype and not run.lookahead
        return few and run.access == columns.ALIGNED and run.stages & DRAWS == 0 and not self.shape.by_rows

    def _add_chunks(self, runs: list[RunTables]) -> None:
        for index, member in enumerate(self.members):
            for begin in range(0, member.numel, self.size):
                count = min(self.size, member.numel - begin)
                runs[index].chunks.append((index, begin, count, self.partials))
                self.partials += 1

    def _add_row_chunks(self, runs: list[RunTables]) -> None:
        partials = 0
        for index, member in enumerate(self.members):
            if member.numel == 0:
                continue
            chunks = runs[index].row_chunks
            rows = int(self.tensors[index, columns.TENSOR_ROWS])
            length = member.numel // max(rows, 1)
            if rows == 0 or length > self.size:
                for row in range(max(rows, 1)):
                    partials = self._cut_row(index, row, length, rows > 0, partials, chunks)
                continue
            together = min(self.size // length, ROWS_TOGETHER)
            for row in range(0, rows, together):
                chunks.append((index, min(together, rows - row), partials, -1, row, 0, 0, 0))
                partials += 1
        self.row_partials = partials

    def _cut_row(
        self, index: int, row: int, length: int, is_row: bool, partials: int, chunks: list[tuple[int, ...]]
    ) -> int:
        """The parts of a row that is longer than a chunk, or of a tensor without rows. Returns the next partial sum."""
        long_row = -1
        if is_row:
            long_row = len(self.long_rows)
            self.long_rows.append((index, partials, -(-length // self.size), row))
        for begin in range(0, length, self.size):
            count = min(self.size, length - begin)
            chunks.append((index, 0, partials, long_row, row, begin, count, 0))
            partials += 1
        return partials
