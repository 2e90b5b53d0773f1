"""Norms over several parameters, of which other processes may hold parts.

Where they do, what is measured here are sums of squares. They are handed to the run's exchange, and are norms once that
has run; see :mod:`torchclip.distributed`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from torchclip.backends.reference import policies
from torchclip.backends.reference.run import Run
from torchclip.distributed.exchange import Exchange, Sum
from torchclip.distributed.layout import Layout
from torchclip.policies.clip import Scope
from torchclip.rules.norms import norm_dtype
from torchclip.state.steppable import leading_device


@dataclass(frozen=True)
class JointNorms:
    """Norms over a scope.

    Args:
        norm: [], [groups] or [parameters].
        present: which of them had a gradient to measure, in the same shape.
        elsewhere: 0-dim: not finite where a norm is not that another process alone knows; None where there is none.
    """

    norm: Tensor
    present: Tensor
    elsewhere: Tensor | None = None


class Measurement:
    """Norms over a scope, to be read once the exchange has run.

    Args:
        run: the step.
        tensor_norms: [parameters], those of this process; None for no gradient.
        scope: over which of them a norm is taken.
    """

    def __init__(self, run: Run, tensor_norms: Sequence[Tensor | None], scope: Scope) -> None:
        self._run, self._tensor_norms, self._scope = run, tensor_norms, scope
        self._sums: list[tuple[list[int], Sum]] = []
        self._lost: list[Sum] = []
        if run.layout is None or run.exchange is None or not run.is_split:
            return
        measured = [norm for norm in tensor_norms if norm is not None]
        device = measured[0].device if measured else leading_device(run.param_groups)
        self._zero = torch.zeros((), dtype=norm_dtype(device), device=device)
        if scope is Scope.TENSOR:
            self._add_tensors(run.layout, run.exchange)
        else:
            self._add_scopes(run.layout, run.exchange)

    def _add_tensors(self, layout: Layout, exchange: Exchange) -> None:
        """For each tensor that others hold parts of: its sum, and whether there is a gradient."""
        for over in dict.fromkeys(owner.tensor for owner in layout.owners):
            indices = [index for index, owner in enumerate(layout.owners) if owner.tensor == over]
            squares = [self._square(index, layout.owners[index].tensor_share) for index in indices]
            self._sums.append((indices, exchange.add(torch.stack([*squares, *self._presence(indices)]), over)))
        for over in layout.apart:
            finite = [norm.isfinite().to(self._zero) for norm in self._tensor_norms if norm is not None]
            lost = torch.stack([1 - one for one in finite]).sum() if finite else self._zero
            self._lost.append(exchange.add(lost, over))

    def _add_scopes(self, layout: Layout, exchange: Exchange) -> None:
        """For the optimizer or each group the same two. What other processes hold in its place, no process knows."""
        for over in dict.fromkeys((*(owner.norm for owner in layout.owners), *layout.sums)):
            indices = [index for index, owner in enumerate(layout.owners) if owner.norm == over]
            squares = [self._zero] * len(layout.owners)
            presence = list(squares)
            for index, present in zip(indices, self._presence(indices), strict=True):
                squares[index] = self._square(index, layout.owners[index].norm_share)
                presence[index] = present
            self._sums.append(([], exchange.add(torch.cat([self._by_scope(squares), self._by_scope(presence)]), over)))

    def _square(self, index: int, share: float) -> Tensor:
        norm = self._tensor_norms[index]
        return self._zero if norm is None else norm.to(self._zero) ** 2 * share

    def _presence(self, indices: Sequence[int]) -> list[Tensor]:
        one = torch.ones_like(self._zero)
        return [self._zero if self._tensor_norms[index] is None else one for index in indices]

    def _by_scope(self, values: Sequence[Tensor]) -> Tensor:
        """[1] or [groups]: the sums of [parameters]."""
        joined = torch.stack(list(values)) if values else self._zero.new_zeros(0)
        sizes = [len(values)] if self._scope is Scope.OPTIMIZER else list(self._run.group_sizes)
        return torch.stack([group.sum() for group in joined.split(sizes)])

    def read(self) -> JointNorms:
        """The norms."""
        sizes, scope = self._run.group_sizes, self._scope
        if not self._run.is_split:
            norm = policies.joint_norms(self._tensor_norms, sizes, scope)
            return JointNorms(norm, policies.has_gradient(self._tensor_norms, sizes, scope, norm))
        if scope is not Scope.TENSOR:
            both = torch.stack([total.total for _, total in self._sums]).sum(dim=0)
            squares, presence = both.chunk(2)
            if scope is Scope.OPTIMIZER:
                squares, presence = squares.reshape(()), presence.reshape(())
            return JointNorms(squares.sqrt(), presence > 0)
        squares, presence = (self._zero.new_zeros(len(self._tensor_norms)) for _ in range(2))
        for indices, each in self._sums:
            squares[indices], presence[indices] = each.total.chunk(2)
        lost = torch.stack([each.total for each in self._lost]).sum() if self._lost else None
        return JointNorms(
            squares.sqrt(), presence > 0, None if lost is None else torch.where(lost == 0, lost, torch.nan)
        )
