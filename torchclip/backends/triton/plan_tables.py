"""What the plan in C++ hands to its launcher: ``csrc/step/device_tables.h`` and ``csrc/step/host_tables.h``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from torchclip.distributed.cells import IN_CELL


class Types(NamedTuple):
    """How the operands of a run lie in memory: types and forms by their numbers in csrc/step/tables.h and
    csrc/codecs.h."""

    gradient: int
    parameter: int
    form: int  # of the parameter
    state: Sequence[int]  # [3], types
    state_forms: Sequence[int]  # [3]


class RunTables(NamedTuple):
    """The chunks of tensors that one launch of a pass serves: ``Run`` of csrc/step/host_tables.h."""

    slots: int  # bits
    stages: int  # bits
    dtype: int
    state_dtype: int
    access: int
    is_measured: bool  # by the pass for the clip policy
    first: int  # of its chunks
    chunks: int
    first_row: int  # of its chunks by rows
    row_chunks: int
    pieces: int
    first_piece: int  # where it counts zeros
    types: Types


class Tables(NamedTuple):
    """The memory of a step on one device, whose layout is that of csrc/step/device_tables.h; int64, or float64."""

    tensors: Tensor
    gradients: Tensor  # addresses
    chunks: Tensor
    row_chunks: Tensor
    finish: Tensor  # FinishArguments
    finish_rule: Tensor  # FinishRuleArguments
    draws: Tensor
    host_coefficients: Tensor  # as they are before any norm is known, float64
    coefficients: Tensor  # float64
    partials: Tensor  # float64
    numbers: Tensor  # StepNumbers, float64
    row_gradient_factors: Tensor | None  # float64
    row_step_factors: Tensor | None  # float64
    zeros: Tensor
    beside: Tensor | None  # DeviceBeside


class DeviceExchange(NamedTuple):
    """What other processes are asked for: that of csrc/step/device_exchange.h."""

    add: Callable[[Tensor, Tensor], None]  # adds the numbers up over processes
    numbers: Tensor  # float64
    table: Tensor  # ShareArguments
    unit_sums: Tensor  # float64, where there are several sets of sums
    counters: Tensor  # float64
    cells: int
    sets: int
    units: int

    def add_up(self) -> None:
        """What is in the numbers becomes what all processes have, and the sums of each unit one."""
        self.add(self.numbers, self.counters)
        if self.sets > 1:
            cells = self.numbers[: IN_CELL * self.cells].view(self.sets, self.units, IN_CELL)
            torch.sum(cells, 0, out=self.unit_sums[: IN_CELL * self.units].view(self.units, IN_CELL))


POLICY, RULE, NOTHING = range(3)
"""Whose sums the processes are asked for: ``Asked`` of csrc/step/sharing.h."""
