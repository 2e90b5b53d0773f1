"""Which processes hold distinct elements of a parameter, and which hold copies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

from torch import Tensor

from torchclip.distributed.processes import Processes, of_mesh
from torchclip.state.sharded import is_sharded, sharded_dimension


@dataclass(frozen=True)
class Ownership:
    """Of one parameter.

    Args:
        tensor: over which processes sums of this very tensor are added, one after the other; none where this process
            holds all of it.
        norm: over which sums are added that belong to a norm of several parameters: those of ``tensor``, and those that
            hold other parameters of the same model.
        tensor_share, norm_share: what part of this process's sum counts in each, since others hold copies: above 0, at
            most 1.
        distinct: those that hold other parameters in its place, this process among them; None where nobody does.
        number: what is added to the parameter's index in draws, for the parameters that other processes hold.
    """

    tensor: tuple[Processes, ...] = ()
    norm: tuple[Processes, ...] = ()
    tensor_share: float = 1.0
    norm_share: float = 1.0
    distinct: Processes | None = None
    number: int = 0


def ownership_of(
    parameter: Tensor, declared: Processes | None, processes_of: Callable[[Any], Processes] = of_mesh
) -> Ownership:
    """That of a parameter by itself.

    Args:
        parameter: a DTensor, whose mesh and placements say it, or another tensor, of which every process has a copy
            unless ``declared`` says otherwise.
        declared: the processes over which parameters are distinct.
        processes_of: those of a mesh.
    """
    declared = None if declared is None or len(declared) == 1 else declared
    if not is_sharded(parameter):
        if declared is None:
            return Ownership()
        if is_flat(parameter):
            return Ownership((declared,), (declared,))
        return Ownership((), (declared,), distinct=declared)
    sharded: Any = parameter
    mesh = processes_of(sharded.device_mesh)
    split = [sharded_dimension(placement) is not None for placement in sharded.placements]
    parts = prod(sharded.device_mesh.size(along) for along, is_split in enumerate(split) if is_split)
    share = parts / len(mesh)
    of_tensor = (mesh,) if parts > 1 else ()
    if declared is None:
        return Ownership(of_tensor, of_tensor, share if of_tensor else 1.0, share if of_tensor else 1.0)
    norm = (declared,) if declared.holds(mesh) else (*of_tensor, declared)
    share_of_norm = share if of_tensor or declared.holds(mesh) else 1.0
    distinct = None if norm == of_tensor else declared
    return Ownership(of_tensor, norm, share if of_tensor else 1.0, share_of_norm, distinct)


def is_flat(parameter: Tensor) -> bool:
    """Whether it is a piece of what FSDP1 has flattened, of which a norm by itself means nothing."""
    return bool(getattr(parameter, "_fsdp_flattened", False))
