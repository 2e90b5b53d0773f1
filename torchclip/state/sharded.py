"""Parameters that are wrappers around other tensors, of which a DTensor's is one process's shard."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor

PLAIN_TENSORS = (Tensor, torch.nn.Parameter)
"""The types of tensors that are no wrappers, and of most that a step meets."""


def is_wrapper(tensor: Tensor) -> bool:
    """Whether it is of a subclass whose elements cannot be reached through a data pointer."""
    return type(tensor).__torch_dispatch__ is not Tensor.__torch_dispatch__


def is_sharded(tensor: Tensor) -> bool:
    """Whether it is a DTensor."""
    distributed = sys.modules.get("torch.distributed.tensor")  # where nobody has imported it, there are none
    return distributed is not None and isinstance(tensor, distributed.DTensor)


def held_part(tensor: Tensor) -> Tensor:
    """What this process holds of a DTensor, as it is; any other tensor itself."""
    if not is_sharded(tensor):
        return tensor
    held: Tensor = tensor._local_tensor  # type: ignore[attr-defined]
    return held


def local_of(tensor: Tensor) -> Tensor:
    """What this process holds of a DTensor; any other tensor as it is.

    Under autograd and in a compiled graph, which go through DTensor itself, the tensor as it is.
    """
    if not is_sharded(tensor) or torch.compiler.is_compiling() or torch.is_grad_enabled():
        return tensor
    return waited_part(tensor)


def sharded_dimension(placement: Any) -> int | None:
    """The tensor's dimension that a placement splits; None where it splits none.

    A ``_StridedShard``, which FSDP2 over tensor parallelism makes, says False to ``is_shard()``.
    """
    if placement.is_replicate() or placement.is_partial():
        return None
    dimension: int | None = getattr(placement, "dim", None)
    return dimension


def placements_of_rows(parameter: Any) -> tuple[Any, ...]:
    """Those of a DTensor of one number for each row of a DTensor."""
    from torch.distributed.tensor import Replicate

    return tuple(one if sharded_dimension(one) == 0 else Replicate() for one in parameter.placements)


def layout_reason(tensor: Tensor, parameter: Tensor, placements: tuple[Any, ...] | None) -> str | None:
    """What is wrong with the layout of a state tensor over processes; None for nothing.

    Args:
        tensor: of the state.
        parameter: whose it is.
        placements: over the parameter's mesh that it is to have; None for a plain tensor.
    """
    if placements is None and not is_sharded(tensor):
        return None
    own: Any = tensor
    mesh = None if placements is None else parameter.device_mesh  # type: ignore[attr-defined]
    if mesh is not None and is_sharded(tensor) and own.placements == placements:
        found = own.device_mesh
        # Meshes that are called otherwise, or were loaded, are others to torch.
        if found is mesh or found == mesh or torch.equal(found.mesh, mesh.mesh):
            return None
    came = _layout(own.device_mesh, own.placements) if is_sharded(tensor) else "a plain tensor"
    wanted = "a plain tensor" if mesh is None else _layout(mesh, placements)
    return f"is {came} where {wanted} is wanted"


def _layout(mesh: Any, placements: Any) -> str:
    return f"a DTensor of placements {tuple(placements)} over ranks {mesh.mesh.tolist()}"


def shard_like(like: Tensor, part: Tensor, shape: torch.Size | None = None) -> Tensor:
    """A tensor that is laid out over processes as ``like``, of which this one holds ``part``.

    Args:
        like: where it is no DTensor, the result is ``part``.
        part: as long in each dimension that is split as what this process holds of ``like``.
        shape: of the whole, which lies in the order of its dimensions then; None: that of ``like``, and as that lies.
    """
    if not is_sharded(like):
        return part
    from torch.distributed.tensor import DTensor

    own: Any = like
    stride = own.stride() if shape is None else torch.empty(shape, device="meta").stride()
    made: Tensor = DTensor.from_local(
        part,
        own.device_mesh,
        own.placements,
        run_check=False,
        shape=own.shape if shape is None else shape,
        stride=stride,
    )
    return made


def waited_part(tensor: Tensor) -> Tensor:
    """As :func:`held_part`, once a collective that it comes from is over."""
    part: Any = held_part(tensor)
    if is_wrapper(part) and hasattr(part, "wait"):
        part = part.wait()
    held: Tensor = part
    return held
