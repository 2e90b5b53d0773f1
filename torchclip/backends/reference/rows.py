"""Norms of rows, of which other processes hold parts.

A row of a DTensor that is split along another dimension than the first lies in several processes, and so does a tensor
of one dimension, which is one row to a clip policy. Each process puts the squares of its parts in their places among
all rows, and the run's exchange adds them up. Rows that one process holds alone are not sent.
"""

from __future__ import annotations

import torch
from torch import Tensor

from torchclip.backends.reference.run import Run
from torchclip.distributed.exchange import Sum
from torchclip.rules.norms import norm_dtype


class SplitRows:
    """The squared norms of the rows of each parameter whose rows are split.

    Args:
        run: the step.
        least_dimensions: of the parameters that are looked at.
    """

    def __init__(self, run: Run, least_dimensions: int) -> None:
        self._run = run
        self._rows: dict[int, Tensor] = {}
        if run.layout is not None and run.is_split:
            found = run.layout.split_rows.items()
            self._rows = {at: rows for at, rows in found if run.layout.parameters[at].ndim >= least_dimensions}
        self._own: dict[int, Tensor] = {}
        self._sums: dict[int, Sum] = {}

    def __contains__(self, index: object) -> bool:
        return index in self._rows

    def measure(self, index: int, *tensors: Tensor) -> None:
        """This process's part.

        Args:
            index: the parameter's.
            tensors: those of its shape whose rows are measured.
        """
        if index not in self._rows:
            return
        layout, rows = self._run.layout, self._rows[index]
        assert layout is not None
        dtype = norm_dtype(rows.device)
        whole = layout.parameters[index].ndim < 2
        squares = [each.to(dtype).square() for each in tensors]
        squares = [each.sum().reshape(1) if whole else each.flatten(1).sum(dim=1) for each in squares]
        own = torch.zeros(len(tensors), layout.rows(index), dtype=dtype, device=rows.device)
        own[:, rows] = torch.stack(squares)
        self._own[index] = own

    def add(self, tensors: int = 1) -> None:
        """Hands them to the exchange: ``tensors`` for each parameter, and zeros for one without a gradient."""
        layout, exchange = self._run.layout, self._run.exchange
        for index, rows in self._rows.items():
            assert layout is not None and exchange is not None
            owner = layout.owners[index]
            none = torch.zeros(tensors, layout.rows(index), dtype=norm_dtype(rows.device), device=rows.device)
            self._sums[index] = exchange.add(self._own.get(index, none), owner.tensor, owner.tensor_share)

    def whole(self, index: int) -> Tensor:
        """[tensors, rows], once the exchange has run: of all rows of the parameter."""
        return self._sums[index].total

    def local(self, index: int, each: Tensor) -> Tensor:
        """[local rows, 1, …]: those of ``each`` [rows] that this process has a part of; [] below two dimensions."""
        layout = self._run.layout
        assert layout is not None
        dimensions = layout.parameters[index].ndim
        if dimensions < 2:
            return each.reshape(())
        is_complex = layout.parameters[index].is_complex()
        return each[self._rows[index]].view([-1] + [1] * (dimensions - 1 + is_complex))

    def squares(self, index: int) -> Tensor | None:
        """[local rows, 1, …] of the one tensor measured; None for a parameter whose rows are not split."""
        return self.local(index, self.whole(index)[0]) if index in self._rows else None
