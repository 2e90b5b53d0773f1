"""Kind and geometry of tensors: what a fused step can reach, and whether tensors are still as they were examined."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from operator import is_
from typing import Any

import torch
from torch import Tensor

from torchclip.state.reachable import unreachable_reason
from torchclip.state.sharded import is_wrapper

TensorGuards: Any
try:
    from torch._C._dynamo import guards

    TensorGuards = guards.TensorGuards
except (ImportError, AttributeError):  # a private part of torch; tensors are then compared in Python
    TensorGuards = None

Check = Callable[..., bool]
"""Takes gradients; whether they are of the kinds that were examined, and so is all that was examined with them."""


def is_plain(tensor: Tensor, device: str) -> bool:
    """Whether the elements can be reached through the data pointer on a device of that type: not sparse, not a wrapper
    subclass such as DTensor, not what torch.func's transforms see of one, not a lazily negated or conjugated view."""
    return (
        tensor.device.type == device
        and tensor.layout is torch.strided
        and not is_wrapper(tensor)
        and unreachable_reason(tensor) is None
        and not tensor.is_neg()
        and not tensor.is_conj()
    )


def is_number(tensor: Tensor, count: int) -> bool:
    """Whether a tensor holds that many numbers of a type in which numbers of state are kept."""
    return tensor.numel() == count and tensor.dtype in (torch.float32, torch.float64)


def same_objects(some: Sequence[Any], others: Sequence[Any]) -> bool:
    """Whether they hold the same objects: equality of tensors would compare their elements."""
    return len(some) == len(others) and all(map(is_, some, others))


def kind_of(tensor: Tensor) -> tuple[Any, ...]:
    """Tells one tensor's kind and geometry from another's."""
    if tensor.layout is not torch.strided:  # which may have no strides
        return type(tensor), tensor.layout
    lazy = (tensor.is_neg(), tensor.is_conj())
    return type(tensor), tensor.dtype, tensor.device, tensor.shape, tensor.stride(), lazy


def same_kinds_check(watched: Sequence[Tensor], gradients: Sequence[Tensor]) -> Check:
    """A check that the tensors, all of which are plain, and as many gradients are of the kinds that they are now."""
    if TensorGuards is not None:
        try:  # a tenth of the time; it compares class, dispatch keys, type, device, sizes and strides
            now = TensorGuards(*watched, *gradients, dynamic_dims_sizes=None, dynamic_dims_strides=None)
            return partial(now.check, *watched)
        except TypeError:  # another torch's, with other arguments
            pass
    kinds = [*map(kind_of, watched), *map(kind_of, gradients)]
    return lambda *later: [*map(kind_of, watched), *map(kind_of, later)] == kinds


def never_same(*_: Tensor) -> bool:
    """The check of a parameter that has to be examined again."""
    return False
