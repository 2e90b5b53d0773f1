"""Sets of processes, and the process group of each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache, wraps
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias, TypeVar, cast

import torch
import torch.distributed as dist

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.distributed.device_mesh import DeviceMesh

    GroupOrMesh: TypeAlias = ProcessGroup | DeviceMesh
else:
    GroupOrMesh = Any  # a torch may have no torch.distributed


Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Processes:
    """Some of the processes, this one among them.

    Args:
        ranks: in the world, ascending.
        group: a process group of them; None where it is made when it is first needed.
        root: the mesh that theirs is a part of; None for a group of its own.
    """

    ranks: tuple[int, ...]
    group: Any = field(default=None, compare=False, repr=False)
    root: Any = field(default=None, compare=False, repr=False)

    def __len__(self) -> int:
        return len(self.ranks)

    def __deepcopy__(self, memo: dict[int, Any]) -> Processes:
        return self

    def __reduce__(self) -> Any:
        if self.group is not None:
            refuse_pickle()
        return type(self), (self.ranks, None, self.root)

    def __hash__(self) -> int:
        # Of a few: each parameter's are looked up, and there may be thousands.
        return hash((len(self.ranks), *self.ranks[:2], *self.ranks[-1:]))

    @property
    def process_group(self) -> Any:
        """Theirs. A new one is made by all of them together, and by no other process."""
        return _group_of(self.ranks, dist.group.WORLD) if self.group is None else self.group

    def holds(self, other: Processes) -> bool:
        """Whether all of the others are among these."""
        return set(other.ranks) <= set(self.ranks)


def refuse_pickle() -> NoReturn:
    """Raises RuntimeError: no other process could use a process group of this one."""
    raise RuntimeError(
        "an optimizer with a process group, by norm_group= or loss_group=, cannot be pickled: save its state_dict(), "
        "and load that into one made with the group of the process that loads it"
    )


def outside_graphs(function: Function) -> Function:
    """The function, which a graph of ``torch.compile`` breaks for: what is sent is no part of one."""

    @wraps(function)
    def called(*arguments: Any) -> Any:
        if not torch.compiler.is_compiling():  # so that nobody else imports what compiles, for a second
            return function(*arguments)
        return torch.compiler.disable(function)(*arguments)

    return cast(Function, called)


def is_running() -> bool:
    """Whether there are several processes that can talk to each other."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def world() -> Processes:
    """All of them."""
    return Processes(tuple(range(dist.get_world_size())), dist.group.WORLD)


def of_mesh(mesh: DeviceMesh, name: str = "the mesh of a DTensor") -> Processes:
    """Those of a device mesh; raises ValueError, by its ``name``, for one that this process is not in."""
    ranks = tuple(sorted(mesh.mesh.flatten().tolist()))
    if mesh.get_coordinate() is None:
        raise ValueError(
            f"{name} is one of ranks {list(ranks)}, and this is rank {dist.get_rank()}: give each process the mesh "
            "that it is in, and leave out of it what is none of its own"
        )
    root = mesh._get_root_mesh() if hasattr(mesh, "_get_root_mesh") else None
    return Processes(ranks, mesh.get_group() if mesh.ndim == 1 else None, root)


def of(given: Any, name: str) -> Processes:
    """Those of an optimizer's argument.

    Args:
        given: a process group or a device mesh.
        name: the argument's.

    Raises:
        TypeError: for something else.
        ValueError: for a group that this process is not in, or that is gone.
        RuntimeError: where torch.distributed is not initialised.
    """
    wanted = f"{name}= takes a torch.distributed.ProcessGroup or a DeviceMesh"
    if not dist.is_available():
        raise RuntimeError(f"{wanted}, and this torch has no torch.distributed: leave {name} out")
    from torch.distributed.device_mesh import DeviceMesh

    if isinstance(given, DeviceMesh):
        return of_mesh(given, name)
    if given is dist.GroupMember.NON_GROUP_MEMBER:
        raise ValueError(f"{name} is a group that this process is not in: give each process the group that it is in")
    if not isinstance(given, dist.ProcessGroup):
        raise TypeError(f"{wanted}, got {given!r} of type {type(given).__name__}")
    if not dist.is_initialized():
        raise RuntimeError(f"{name} is a process group, and torch.distributed is not initialised: its group is gone")
    try:
        ranks = dist.get_process_group_ranks(given)
    except (KeyError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name} is a process group that was destroyed ({error}): give one that is alive") from None
    return Processes(tuple(sorted(ranks)), given)


def spanning(each: Iterable[Processes]) -> Processes | None:
    """Those among which all the others are, in the block of the mesh that they have in common where none of them is.

    None where there are no such processes.
    """
    those = list(each)
    for one in those:
        if all(one.holds(other) for other in those):
            return one
    roots = [one.root for one in those]
    if not roots or roots[0] is None or any(root is not roots[0] for root in roots):
        return None
    return Processes(_block(roots[0].mesh, {rank for one in those for rank in one.ranks}), None, roots[0])


def _block(mesh: torch.Tensor, ranks: Iterable[int]) -> tuple[int, ...]:
    """The ranks of a mesh that differ from this process in no other dimension than some of ``ranks`` do."""
    own = (mesh == dist.get_rank()).nonzero()[0]
    places = torch.stack([(mesh == rank).nonzero()[0] for rank in ranks])
    varies = (places != own).any(dim=0).tolist()
    index = tuple(slice(None) if along else int(at) for along, at in zip(varies, own.tolist(), strict=True))
    return tuple(sorted(mesh[index].flatten().tolist()))


@cache
def _group_of(ranks: tuple[int, ...], everyone: Any) -> Any:
    """A group of those, made once for each time that torch.distributed is initialised."""
    if len(ranks) == dist.get_world_size():
        return everyone
    return dist.new_group(list(ranks), use_local_synchronization=True)


def merged(each: Sequence[tuple[Processes, ...]]) -> Processes | None:
    """What one collective may go over in the place of those, each of which goes over one set of processes at the most.

    None where one does not do.
    """
    if any(len(one) > 1 for one in each):
        return None
    return spanning(dict.fromkeys(one[0] for one in each if one))
