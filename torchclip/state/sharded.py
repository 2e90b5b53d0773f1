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
