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
from torchclip.distributed.shards import aligned
from torchclip.rules.norms import norm_dtype
from torchclip.state.sharded import is_sharded, local_of


@torch.no_grad()
def total_norm(
    tensors: Sequence[Tensor | None],
    order: float,
    norm_group: Processes | None,
    parameters: Sequence[Tensor] | None = None,
) -> Tensor:
    """Of all their elements together, each counted once: 0-dim, the same in every process.

    Args:
        tensors: DTensors on any meshes, and tensors of which every process has a copy.
        order: of the norm, infinity included.
        norm_group: the processes over which all of them are distinct.
        parameters: whose gradients they are. A process takes part for a parameter that has none, too, which is None.
    """
    whole = list(tensors)
    for index, tensor in enumerate(tensors):
        if tensor is not None:
            whole[index] = _summed_up(tensor) if parameters is None else aligned(tensor, parameters[index])
    held = [_laid_out_as(index, whole, parameters) for index in range(len(whole))]
    layout = layout_of([{"params": held}], norm_group)
    device = local_of(held[0]).device if held else torch.device("cpu")
    operation = {math.inf: dist.ReduceOp.MAX, -math.inf: dist.ReduceOp.MIN}.get(order, dist.ReduceOp.SUM)
    none = {math.inf: 0.0, -math.inf: math.inf}.get(order, 0.0)
    found = []
    for over in layout.norms:
        total = torch.full((), none, dtype=norm_dtype(device), device=device)
        for tensor, owner in zip(whole, layout.owners, strict=True):
            if tensor is not None and owner.norm == over and local_of(tensor).numel() > 0:
                total = _joined(total, _power(local_of(tensor), order).to(total), owner.norm_share, order)
        for processes in over:
            total = all_reduced(total, processes, operation)
        found.append(total)
    total = found[0] if found else torch.zeros((), dtype=norm_dtype(device), device=device)
    for other in found[1:]:
        total = _joined(total, other, 1.0, order)
    return total if order == 0 or math.isinf(order) else total ** (1 / order)


def _laid_out_as(index: int, tensors: Sequence[Tensor | None], parameters: Sequence[Tensor] | None) -> Tensor:
    """What says over which processes a tensor is spread: where it may be missing, its parameter."""
    tensor = tensors[index]
    if parameters is not None and (tensor is None or is_sharded(tensor)):
        return parameters[index]
    assert tensor is not None
    return tensor


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
