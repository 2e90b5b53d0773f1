"""DTensors: which elements of the whole tensor the local shard holds, and state in the same layout."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from torchclip.rules.rule_spec import Extent, RuleSpec
from torchclip.state.sharded import is_sharded, placements_of_rows, sharded_dimension

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def coordinates(parameter: DTensor) -> list[Tensor]:
    """For each dimension, where the local indices are in the whole tensor: int64, [local size] each."""
    mesh = parameter.device_mesh
    own = mesh.get_coordinate()
    axes = [torch.arange(size) for size in parameter.shape]
    for along, placement in enumerate(parameter.placements):
        dimension = sharded_dimension(placement)
        if dimension is not None:
            split_factor = getattr(placement, "split_factor", 1)
            held = axes[dimension][:0]
            if own is not None:
                held = _piece(axes[dimension], own[along], mesh.size(along), split_factor)
            axes[dimension] = held
    return axes


def _piece(axis: Tensor, index: int, count: int, split_factor: int) -> Tensor:
    """What one of ``count`` processes holds of an axis that others have split by ``split_factor`` already."""
    parts = (_chunk(axis, part, int(split_factor)) for part in range(int(split_factor)))
    return torch.cat([_chunk(part, index, count) for part in parts])


def _chunk(axis: Tensor, index: int, count: int) -> Tensor:
    """As of ``torch.chunk``, with empty ones at the end."""
    length = -(-len(axis) // count)
    return axis[index * length : (index + 1) * length]


def positions(parameter: Tensor) -> Tensor:
    """Where each local element is in memory order of the whole tensor: int64, in the local shape.

    Of a complex parameter in that of its real view.
    """
    assert is_sharded(parameter)
    sharded: Any = parameter
    shape, strides = parameter.shape, parameter.stride()
    order = sorted(range(parameter.ndim), key=lambda dimension: -strides[dimension])
    place, step = torch.zeros([], dtype=torch.int64), 1
    axes = coordinates(sharded)
    for dimension in reversed(order):
        along = axes[dimension] * step
        place = place + along.view([-1 if other == dimension else 1 for other in range(parameter.ndim)])
        step *= shape[dimension]
    if parameter.is_complex():
        place = torch.stack((2 * place, 2 * place + 1), dim=-1)
    return place.to(parameter.device)


def splits_rows(parameter: Tensor) -> bool:
    """Whether other processes hold parts of the rows of this one; below two dimensions a tensor is one row."""
    if not is_sharded(parameter):
        return False
    sharded: Any = parameter
    split = [sharded_dimension(placement) for placement in sharded.placements]
    return any(dimension is not None and (parameter.ndim < 2 or dimension > 0) for dimension in split)


def row_indices(parameter: Tensor) -> Tensor:
    """Which rows of the whole tensor the local ones are: int64, [local rows]."""
    sharded: Any = parameter
    return coordinates(sharded)[0].to(parameter.device) if parameter.ndim >= 2 else torch.zeros(1, dtype=torch.int64)


def laid_out(spec: RuleSpec, name: str, parameter: Tensor, made: Any) -> Any:
    """New state of a parameter, by its name; of a DTensor's rows in a DTensor that lies as those do."""
    by_rows = any(slot.name == name and slot.extent is Extent.ROW for slot in spec.slots)
    if by_rows and is_sharded(parameter) and not is_sharded(made):
        return _one_for_each_row(parameter, made)
    return made


def _one_for_each_row(parameter: Tensor, value: Tensor) -> Tensor:
    """State of one number a row, laid out as the rows of the parameter are.

    Args:
        parameter: a DTensor of two dimensions at least.
        value: [rows, 1, …], the same number everywhere.
    """
    from torch.distributed.tensor import DTensor

    sharded: Any = parameter
    placements = placements_of_rows(parameter)
    local = value[: len(row_indices(parameter))].clone()
    made: Tensor = DTensor.from_local(
        local, sharded.device_mesh, placements, run_check=False, shape=value.shape, stride=value.stride()
    )
    return made


def aligned(gradient: Tensor, parameter: Tensor) -> Tensor:
    """The gradient in the layout of its parameter. What sequence parallelism leaves to be summed is summed here."""
    if not is_sharded(gradient) or not is_sharded(parameter):
        return gradient
    own: Any = gradient
    wanted: Any = parameter
    if own.placements == wanted.placements and own.device_mesh == wanted.device_mesh:
        return gradient
    redistributed: Tensor = own.redistribute(wanted.device_mesh, wanted.placements)
    return redistributed
