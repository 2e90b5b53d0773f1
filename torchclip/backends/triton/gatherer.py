"""What a plan in Python reads of parameters, gradients and state at every step, where there is no extension.

``torchclip._C.Gatherer`` is the same in C++, and some twenty times as fast.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from torchclip.backends.codes import GROUPS_CHANGED
from torchclip.backends.triton.address_table import ABSENT, addresses_of, check_table, write_columns
from torchclip.backends.triton.group_numbers import ABSENT as NO_CLIP
from torchclip.backends.triton.group_numbers import Group
from torchclip.backends.triton.kinds import Check, never_same, same_kinds_check, same_objects
from torchclip.backends.triton.members import SUM_SLOT, Description, Member, Wanted, examine
from torchclip.rules.norms import Scope
from torchclip.rules.table import RULES
from torchclip.state.group_values import Key, structure_error

ADDRESSES = 10
"""Columns of the table of addresses: parameter, gradient, three state tensors, slow weights, two numbers of state,
sums, and a spare one."""

NUMBERS = 12
"""Columns of the table of numbers: lr and up to seven of the rule's own, then those of the pipeline and a spare one."""

OWN_NUMBERS = 8

_GRADIENT = 1


class Gatherer:
    """Re-reads param groups, parameters, gradients and state, and says what changed.

    Args:
        rule: the name of an update rule.
        keys: of a param group: the pipeline's, the rule's own in the order of the C++ struct, and those that are only
            checked.
        slots: its state tensors, without Lookahead's.
        scalars: its numbers of state.
        scope: over which its norms are taken, a position in :class:`torchclip.Scope`.
        device: the type of the device on which everything lies.

    Raises:
        KeyError: when there is no such rule.
    """

    def __init__(
        self,
        rule: str,
        keys: Sequence[Key],
        slots: Sequence[str],
        scalars: Sequence[str],
        scope: int,
        device: str,
    ) -> None:
        if rule not in RULES:
            raise KeyError(f"torchclip.rules.table lists no rule called {rule}")
        over = tuple(Scope)[scope]
        self._spec = RULES[rule].over(over)
        self._keys = tuple(keys)
        self._held: list[Tensor | None] = []
        sums = over if self._spec.by_scope is not None and over in (Scope.TENSOR, Scope.ROW) else None
        self._own_clips = 0
        self._wanted = Wanted(torch.device(device).type, tuple(slots), tuple(scalars), sums, self._spec.takes_complex)
        self.clear()

    def configure(self, lookahead: bool, by_rows: bool, own_clips: int = 0) -> None:
        """Takes what the step does around the rule.

        Args:
            lookahead: there are slow weights.
            by_rows: it clips by rows.
            own_clips: how many param groups have their clip policies in the plan; 0 where no group has one of its own.
        """
        self._own_clips = own_clips
        for group in self._groups:
            group.remember_arguments()
        before = self._wanted
        self._wanted = replace(before, lookahead=lookahead, by_rows=by_rows)
        self._changed |= self._wanted != before
        self._examine_again(self._members)
        self._forget_addresses()

    def clear(self) -> None:
        """Lets go of everything that was read."""
        self._groups: list[Group] = []
        self._members: list[Member] = []
        self._state_dicts: list[dict[str, Any] | None] = [None]  # equal to no state, an empty one included
        self._bound: list[dict[str, Any]] = []  # those that belong to a parameter
        self._entries: list[Any] = []  # of those, one after the other, at the last refresh
        self._entry_counts: list[int] = []
        self._all_same: Check | None = None  # of all that step, where a step was like the one before
        self._absent: list[bool] = []  # which had no gradient then
        self.let_go()
        self._forget_addresses()
        self._changed = True

    def _forget_addresses(self) -> None:
        self._all_served = False
        self._columns: dict[int, list[Tensor]] = {}
        self._gradient_addresses = array("q", bytes(8 * len(self._members)))

    def take_changed(self) -> bool:
        """True when the parameters with a gradient, or the geometry of one, changed since the last call."""
        changed, self._changed = self._changed, False
        return changed

    def refresh(self, param_groups: list[dict[str, Any]], state: Mapping[Tensor, dict[str, Any]]) -> list[int]:
        """Re-reads everything.

        Args:
            param_groups: as in ``optimizer.param_groups``.
            state: as in ``optimizer.state``.

        Returns:
            The positions of parameters that cannot step as they are: state is missing, or the parameter, its gradient
            or its state is of a kind that a fused step does not serve. In their place ``GROUPS_CHANGED``, where param
            groups have got other clip policies, or keys that belong to the optimizer.

        Raises:
            RuntimeError: for a number of a param group that lies on the device and is not the lr.
            ValueError: for a key that is missing, or does not hold what it must.
            TypeError, KeyError: for what is no param group.
        """
        if not self._structure_matches(param_groups):
            self._read_structure(param_groups)
        if self._own_clips not in (0, len(self._groups)) or any(group.arguments_changed() for group in self._groups):
            return [GROUPS_CHANGED]
        self._read_groups()
        self._bind_states(state)
        gradients = [member.parameter.grad for member in self._members]
        self._held = gradients
        attention = self._refresh_members(gradients)
        self._gradient_addresses = addresses_of(self._served(gradients))
        return attention

    def let_go(self) -> None:
        """Of the gradients of the last refresh. Until then their memory stays as it is, whatever other threads do: a
        step that has read addresses may wait for one of those."""
        self._held = []

    def describe(self) -> list[Description | None]:
        """One for each parameter; None for one that takes no step."""
        return [member.description if member.can_step else None for member in self._members]

    def addresses(self, into: Tensor) -> None:
        """Writes the addresses of the first elements: int64 [parameters, 10], 0 where there is none."""
        check_table(into, "addresses", torch.int64, (len(self._members), ADDRESSES))
        columns = {column: addresses_of(tensors) for column, tensors in self._columns.items()}
        write_columns(into, {**columns, _GRADIENT: self._gradient_addresses})

    def numbers(self, into: Tensor) -> None:
        """Writes the numbers of the param groups: float64 [groups, 12].

        They are lr (NaN where it is in :meth:`lrs`), the rule's own hyperparameters and zeros, then, from column 8,
        weight_decay, decoupled_weight_decay and maximize, and a zero.
        """
        check_table(into, "numbers", torch.float64, (len(self._groups), NUMBERS))
        rows = []
        for group in self._groups:
            own, count = list(group.numbers), len(group.numbers)
            if count > OWN_NUMBERS:
                raise RuntimeError(f"a param group has {count} numbers for the rule, and the table holds {OWN_NUMBERS}")
            rows.append([*own, *[0.0] * (OWN_NUMBERS - count), *group.pipeline, 0.0])
        if rows:
            into.copy_(torch.tensor(rows, dtype=torch.float64, device="cpu"))

    def lrs(self) -> list[Tensor | None]:
        """The lr of each param group where it is a tensor on the device."""
        return [group.lr for group in self._groups]

    # Param groups and state dicts.

    def _structure_matches(self, param_groups: Sequence[Mapping[str, Any]]) -> bool:
        if len(param_groups) != len(self._groups):
            return False
        for group, held in zip(param_groups, self._groups, strict=True):
            params = group.get("params") if isinstance(group, dict) else None
            if group is not held.dict or not isinstance(params, (list, tuple)) or not same_objects(params, held.params):
                return False
        return True

    def _read_structure(self, param_groups: Sequence[Mapping[str, Any]]) -> None:
        for index, group in enumerate(param_groups):
            error = structure_error(group, index)
            if error is not None:
                raise error
        # Which policy is whose may be another now: refresh() says so until configure().
        if self._own_clips or any(group.clip is not NO_CLIP for group in self._groups):
            self._own_clips = -1
        self.clear()
        self._groups = [Group(group, list(group["params"]), index) for index, group in enumerate(param_groups)]
        self._members = [
            Member(parameter, index) for index, group in enumerate(self._groups) for parameter in group.params
        ]
        self._forget_addresses()

    def _read_groups(self) -> None:
        for group in self._groups:
            group.read(self._keys, self._spec, self._wanted.device)
            names = self._spec.used_slots(group.dict)
            used = sum(1 << slot for slot, name in enumerate(self._wanted.slots) if name in names)
            if self._spec.by_scope is not None:
                used &= ~(1 << SUM_SLOT)
            if used != group.used_slots:
                group.used_slots = used
                self._changed = True
                self._examine_again([member for member in self._members if self._groups[member.group] is group])

    def _bind_states(self, state: Mapping[Tensor, dict[str, Any]]) -> None:
        """Which dict belongs to which parameter, and whether they hold what they held."""
        dicts: list[dict[str, Any] | None] = [*state.values()]
        rebinds = not same_objects(dicts, self._state_dicts)
        if rebinds:  # hashing a tensor calls Python: the values alone are compared
            self._state_dicts = [None]  # equal to no state: an exception lets the next step look again
            for position, member in enumerate(self._members):
                member.state, member.seen = state.get(member.parameter), None
                if not isinstance(member.state, dict | None):
                    kind = type(member.state).__name__
                    raise TypeError(f"the state of parameter {position} is {kind}, and a dict is wanted")
            self._state_dicts = dicts
            self._bound = [member.state for member in self._members if member.state is not None]
        entries, counts = list(chain.from_iterable(map(dict.values, self._bound))), list(map(len, self._bound))
        if not rebinds and counts == self._entry_counts and same_objects(entries, self._entries):
            return
        self._entries, self._entry_counts = entries, counts
        self._examine_again(
            [
                member
                for member in self._members
                if self._wanted.needs_state(member.used_slots) and not member.state_is_as_seen(self._wanted)
            ]
        )

    # Members.

    def _examine_again(self, members: Sequence[Member]) -> None:
        """At the next refresh, if they have a gradient then."""
        self._all_same = None
        for member in members:
            if member.check is not None:
                member.check = never_same

    def _refresh_members(self, gradients: Sequence[Tensor | None]) -> list[int]:
        """Returns the positions of those that cannot step."""
        given = [gradient for gradient in gradients if gradient is not None]
        absent = [gradient is None for gradient in gradients]
        if self._all_same is not None and absent == self._absent and self._all_same(*given):
            return []
        changed = [
            position
            for position, (member, gradient) in enumerate(zip(self._members, gradients, strict=True))
            if (member.check is not None if gradient is None else member.check is None or not member.check(gradient))
        ]
        if not changed:  # one check of all takes half the time of a check of each, and long to make
            watched = [tensor for member in self._members if member.can_step for tensor in member.watched()]
            self._all_same, self._absent = same_kinds_check(watched, given), absent
            return []
        self._all_same = None
        self._changed = True
        attention = [place for place in changed if not self._examine(self._members[place], gradients[place])]
        self._map_columns()
        return attention

    def _examine(self, member: Member, gradient: Tensor | None) -> bool:
        """Finds out what changed. Returns false when the parameter cannot step as it is."""
        member.check = None if gradient is None else never_same
        if gradient is None:
            return True
        member.used_slots = self._wanted.used_slots(self._groups[member.group].used_slots, member.parameter)
        member.forget_state()
        if self._wanted.needs_state(member.used_slots):
            if member.state is None:
                return False
            member.read_state(self._wanted)
        if not examine(member, gradient, self._wanted):
            return False
        member.check = same_kinds_check(member.watched(), [gradient])
        return True

    def _map_columns(self) -> None:
        """The tensors whose addresses each column of the table holds; none for a column of zeros."""
        rows: list[Sequence[Tensor | None]] = []
        for member in self._members:
            parameter, *state, slow, sums = member.operands()
            state, scalars = [*state, None, None, None][:3], [*member.scalars, None, None][:2]
            row = (parameter, None, *state, slow, *scalars, sums)
            rows.append(row if member.can_step else [None] * len(row))
        self._all_served = all(member.can_step for member in self._members)
        self._columns = {}
        for column, tensors in enumerate(zip(*rows, strict=True)):
            if any(tensor is not None for tensor in tensors):
                self._columns[column] = [ABSENT if tensor is None else tensor for tensor in tensors]

    def _served(self, gradients: Sequence[Tensor | None]) -> list[Tensor]:
        """The gradients of the parameters that step, and a tensor without elements in the place of others."""
        if self._all_served:
            return [gradient for gradient in gradients if gradient is not None]
        return [
            gradient if gradient is not None and member.can_step else ABSENT
            for member, gradient in zip(self._members, gradients, strict=True)
        ]
