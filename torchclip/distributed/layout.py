"""Who holds what of all the parameters of an optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch.distributed as dist
from torch import Tensor

from torchclip.distributed import shards
from torchclip.distributed.agreed import Agreed
from torchclip.distributed.exchange import Exchange, gathered
from torchclip.distributed.ownership import Ownership, ownership_of
from torchclip.distributed.processes import Processes, is_running, merged, of, of_mesh, spanning, world
from torchclip.state.sharded import is_sharded
from torchclip.state.steppable import can_step

KEY = "norm_group"
"""Of a param group whose parameters are distinct over other processes than the optimizer's ``norm_group=`` says."""


@dataclass(frozen=True)
class Layout:
    """Of one optimizer.

    Args:
        parameters: those of all groups, in order.
        sizes: of the groups. One that is added is a change where this process holds nothing of it, too.
        owners: [parameters].
        sums: over which processes sums are added; none where this process knows every norm by itself.
        apart: those of them that hold other parameters in the place of this process's.
        everyone: those that take the step together, who have one seed and average their losses.
        distinct: the sets of processes that hold other parameters in the place of one another's, in an order that is
            the same in all of them.
        agreed: what they have agreed on; None where nothing is asked of others.
    """

    parameters: tuple[Tensor, ...]
    sizes: tuple[int, ...]
    owners: tuple[Ownership, ...]
    sums: tuple[tuple[Processes, ...], ...]
    apart: tuple[tuple[Processes, ...], ...]
    everyone: tuple[Processes, ...]
    distinct: tuple[Processes, ...] = ()
    agreed: Agreed | None = None

    def places(self, index: int) -> Tensor | None:
        """Where the local elements of a parameter are in the memory of the whole tensor; None where it is whole."""
        parameter = self.parameters[index]
        return shards.positions(parameter) if is_sharded(parameter) else None

    @cached_property
    def split_rows(self) -> Mapping[int, Tensor]:
        """By the index of a parameter whose rows are split, which rows of the whole tensor the local ones are."""
        found = [index for index, one in enumerate(self.parameters) if can_step(one) and shards.splits_rows(one)]
        return {index: shards.row_indices(self.parameters[index]) for index in found}

    @cached_property
    def across(self) -> tuple[Processes, ...]:
        """All of those that sums are added over, for what they all must know."""
        return tuple(dict.fromkeys(processes for over in self.sums for processes in over))

    @cached_property
    def norms(self) -> tuple[tuple[Processes, ...], ...]:
        """The sets of processes whose parameters have a norm together, in the order of their first parameters."""
        return tuple(dict.fromkeys((*(owner.norm for owner in self.owners), *self.sums)))

    def number(self, index: int) -> int:
        """That of a parameter in draws, which differs from those of the parameters that other processes hold."""
        return index + self.owners[index].number

    def rows(self, index: int) -> int:
        """How many rows the whole parameter has; one below two dimensions."""
        parameter = self.parameters[index]
        return parameter.shape[0] if parameter.ndim >= 2 else 1

    def numbered(self) -> Layout:
        """With numbers for draws: parameters that other processes hold come after one another, each once, however many
        have parts or copies of it. All take part."""
        owners = list(self.owners)
        apart = [index for index, owner in enumerate(owners) if owner.distinct is not None]
        for processes in self.distinct:
            first = {index: self._first_of(index, processes) for index in apart if owners[index].distinct == processes}
            # From the first to the end: those in between keep the numbers that they have in every process.
            own = len(owners) - apart[0] if dist.get_rank() in first.values() else 0
            counts = gathered(own, processes)
            for index, rank in first.items():
                owners[index] = replace(owners[index], number=sum(counts[: processes.ranks.index(rank)]))
        return replace(self, owners=tuple(owners))

    def _first_of(self, index: int, processes: Processes) -> int:
        """The first rank of those that has a part or a copy of this very parameter."""
        parameter: Any = self.parameters[index]
        holders = of_mesh(parameter.device_mesh).ranks if is_sharded(parameter) else (dist.get_rank(),)
        return min(set(holders) & set(processes.ranks))

    def exchange(self) -> Exchange:
        """That of one step."""
        return Exchange(self.sums, None if self.agreed is None else self.agreed.carried)

    def is_of(self, param_groups: Sequence[Mapping[str, Any]]) -> bool:
        """Whether the param groups still hold these parameters."""
        if _sizes(param_groups) != self.sizes:
            return False
        now = [parameter for group in param_groups for parameter in group["params"]]
        return all(map(_is, now, self.parameters))


def _is(one: Any, other: Any) -> bool:
    return one is other


def _sizes(param_groups: Sequence[Mapping[str, Any]]) -> tuple[int, ...]:
    return tuple([len(group["params"]) for group in param_groups])


def layout_of(param_groups: Sequence[Mapping[str, Any]], norm_group: Processes | None) -> Layout:
    """That of an optimizer.

    Args:
        param_groups: as in ``optimizer.param_groups``.
        norm_group: over which processes all parameters are distinct that no group says otherwise of.
    """
    parameters = tuple(parameter for group in param_groups for parameter in group["params"])
    if not is_running():
        return Layout(parameters, _sizes(param_groups), (Ownership(),) * len(parameters), (), (), ())
    declared = [_declared(group, norm_group) for group in param_groups for _ in group["params"]]
    seen: dict[int, Processes] = {}

    def processes_of(mesh: Any) -> Processes:  # many parameters have one, of thousands
        if id(mesh) not in seen:
            seen[id(mesh)] = of_mesh(mesh)
        return seen[id(mesh)]

    owners = [ownership_of(parameter, over, processes_of) for parameter, over in zip(parameters, declared, strict=True)]
    # A process may hold no parameter at all, and takes part all the same.
    given: list[tuple[Processes, ...]] = [(norm_group,)] if norm_group is not None and len(norm_group) > 1 else []
    together = merged([*(owner.norm for owner in owners), *given])
    if together is not None:
        owners = [_over(together, owner, over) for owner, over in zip(owners, declared, strict=True)]
        given = [(together,)] if given else []
    distinct = {owner.distinct for owner in owners if owner.distinct is not None}
    if given:
        assert norm_group is not None
        distinct.add(norm_group)
    for processes in distinct if together is None else ():
        within = spanning({owner.norm[0] for owner in owners if owner.distinct == processes and len(owner.norm) > 1})
        if within is not None:
            owners = [_within(within, owner) if owner.distinct == processes else owner for owner in owners]
            given = [(within, processes) if over == (processes,) else over for over in given]
    sums = dict.fromkeys(over for owner in owners for over in (owner.norm, owner.tensor) if over)
    sums = dict.fromkeys((*sums, *given))
    apart = dict.fromkeys(owner.norm for owner in owners if owner.norm != owner.tensor)
    return Layout(
        parameters,
        _sizes(param_groups),
        tuple(owners),
        tuple(sorted(sums, key=_order)),
        tuple(dict.fromkeys((*apart, *given))),
        _everyone(parameters, declared, norm_group, processes_of),
        tuple(sorted(distinct, key=lambda processes: _order((processes,)))),
    )


def _order(over: tuple[Processes, ...]) -> list[Any]:
    """Of sets of processes, the same in all of them however their parameters are ordered: by how far apart the ranks
    of one lie, as they do along one dimension of a mesh."""
    return [([rank - processes.ranks[0] for rank in processes.ranks], processes.ranks) for processes in over]


def _declared(group: Mapping[str, Any], norm_group: Processes | None) -> Processes | None:
    given = group.get(KEY)
    return norm_group if given is None else of(given, KEY)


def _over(together: Processes, owner: Ownership, declared: Processes | None) -> Ownership:
    """The same with sums over more processes, which hold copies of what others of them hold."""
    if not owner.norm:
        if declared is not None and len(declared) == 1 and len(together) > 1:
            return owner  # its own, which nobody else counts
        share = 1 / len(together)
        return Ownership((together,), (together,), share, share)
    of_norm = owner.norm_share * len(owner.norm[0]) / len(together)
    if owner.tensor != owner.norm:  # other processes hold other tensors in its place
        return replace(owner, norm=(together,), norm_share=of_norm)
    return Ownership((together,), (together,), of_norm, of_norm)


def _within(mesh: Processes, owner: Ownership) -> Ownership:
    """The same with the sum over others behind one over a mesh, which has copies of it: once for all parameters, since
    the others may have none on a mesh, or none at all."""
    copies = len(mesh) if len(owner.norm) == 1 else len(mesh) / len(owner.norm[0])
    return replace(owner, norm=(mesh, owner.norm[-1]), norm_share=owner.norm_share / copies)


def _everyone(
    parameters: Iterable[Tensor],
    declared: Iterable[Processes | None],
    norm_group: Processes | None,
    processes_of: Callable[[Any], Processes],
) -> tuple[Processes, ...]:
    each: dict[Processes, None] = {}

    def add(over: Processes | None) -> None:
        if over is not None:  # all of a mesh, of which others may hold parts
            each[over if over.root is None else processes_of(over.root)] = None

    add(norm_group)
    for parameter, over in zip(parameters, declared, strict=True):
        if is_sharded(parameter):
            add(processes_of(parameter.device_mesh))  # type: ignore[attr-defined]
        add(over)
    if not each:
        return (world(),)
    whole = spanning(each)
    found = tuple(each) if whole is None else (whole,)
    return tuple(one for one in found if len(one) > 1)
