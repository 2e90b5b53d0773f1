"""The norm of tensors of which processes hold parts, over any mixture of meshes and plain tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from torchclip.distributed.exchange import all_reduced
from torchclip.distributed.layout import layout_of
from torchclip.distributed.processes import Processes
from torchclip.rules.norms import norm_dtype
from torchclip.state.sharded import is_sharded, local_of


@torch.no_grad()
def total_norm(tensors: Sequence[Tensor], order: float, norm_group: Processes | None) -> Tensor:
    """Of all their elements together, each counted once: 0-dim, the same in every process.

    Args:
        tensors: DTensors on any meshes, and tensors of which every process has a copy.
        order: of the norm, infinity included.
        norm_group: the processes over which all of them are distinct.
    """
    whole = [_summed_up(tensor) for tensor in tensors]
    layout = layout_of([{"params": whole}], norm_group)
    device = local_of(whole[0]).device if whole else torch.device("cpu")
    operation = {math.inf: dist.ReduceOp.MAX, -math.inf: dist.ReduceOp.MIN}.get(order, dist.ReduceOp.SUM)
    none = {math.inf: 0.0, -math.inf: math.inf}.get(order, 0.0)
    found = []
    for over in layout.norms:
        total = torch.full((), none, dtype=norm_dtype(device), device=device)
        for tensor, owner in zip(whole, layout.owners, strict=True):
            local = local_of(tensor)
            if owner.norm == over and local.numel() > 0:
                total = _joined(total, _power(local, order).to(total), owner.norm_share, order)
        for processes in over:
            total = all_reduced(total, processes, operation)
        found.append(total)
    total = found[0] if found else torch.zeros((), dtype=norm_dtype(device), device=device)
    for other in found[1:]:
        total = _joined(total, other, 1.0, order)
    return total if order == 0 or math.isinf(order) else total ** (1 / order)


def _summed_up(tensor: Tensor) -> Tensor:
    """What sequence parallelism leaves to be added up, added up."""
    from torch.distributed.tensor import Replicate

    if not is_sharded(tensor):
        return tensor
    sharded: Any = tensor
    if not any(placement.is_partial() for placement in sharded.placements):
        return tensor
    wanted = [Replicate() if placement.is_partial() else placement for placement in sharded.placements]
    summed: Tensor = sharded.redistribute(placements=wanted)
    return summed


def _power(local: Tensor, order: float) -> Tensor:
    """What is added, or compared, over processes: the norm to its power, or itself where it has none."""
    real = local.abs() if local.is_complex() else local
    norm: Tensor = torch.linalg.vector_norm(real, order, dtype=norm_dtype(real.device))
    return norm if order == 0 or math.isinf(order) else norm**order


def _joined(total: Tensor, more: Tensor, share: float, order: float) -> Tensor:
    if math.isinf(order):
        return torch.maximum(total, more) if order > 0 else torch.minimum(total, more)
    return total + share * more
