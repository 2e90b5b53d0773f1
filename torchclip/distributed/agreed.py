"""What the processes of an optimizer have agreed on, and changes of it: found out in the exchange of a step.

Behind its sums every process sends 1, d and d², where d is 0 where it goes by what all had at first, and else a number
of what it has now. Of their sums n, s and q,

.. math:: n q = s^2

holds if and only if all have the same d (Cauchy and Schwarz). So all come to the same answer in the same step, before
anything is written. They are integers that float64 adds up exactly. On a GPU the device leaves the step out, and the
hosts hear of it later, all in the same step: see :mod:`torchclip.distributed.device_flag`.

A process alone cannot call a collective. Where what it has changed makes its exchange another one, or none, it takes
part in that of the step before once more, with zeros for its sums, and in its own only if the others have changed, too.
On a GPU it goes on so until all hear of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import zip_longest
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from torchclip.distributed.device_flag import DeviceFlag, LeftOut
from torchclip.distributed.exchange import Over, added, takes_sums
from torchclip.distributed.processes import Processes
from torchclip.policies.modifiers import Modifiers
from torchclip.rules.hyperparameters import number_of
from torchclip.rules.norms import Scope
from torchclip.rules.rule_spec import RuleSpec
from torchclip.rules.soft_threshold import TARGET

ROOM = 53
"""Bits of the integers that float64 holds."""

Again = Callable[[], list[float]]
"""Takes part in an exchange once more, with nothing for its sums. Returns the sums n, s and q."""


class Agreed:
    """Of one layout.

    Args:
        sums: over which processes there are sums.
        apart: whether some of them hold other parameters in the place of this process's.
        together: whether all who add anything up are one set of processes, and each of them knows that.
        spec: the rule.
        scope: over which elements that takes its norms, if any.
        modifiers: its policies.
        param_groups: as in ``optimizer.param_groups``.
        by_reference: whether the reference path takes its steps.
    """

    def __init__(
        self,
        sums: Sequence[Over],
        apart: bool,
        together: bool,
        spec: RuleSpec,
        scope: Scope,
        modifiers: Modifiers,
        param_groups: Sequence[Mapping[str, Any]],
        *,
        by_reference: bool,
    ) -> None:
        self._sums, self._apart, self._together, self._spec, self._scope = sums, apart, together, spec, scope
        # Of all processes alike, though each has sums of its own: added up over two sets of them at the most.
        self._bits = max((ROOM - (dist.get_world_size() ** 2).bit_length()) // 2, 1)
        self._last: list[Again] = []  # the first exchange of the last step, or all from a device
        self._is_first = True
        self._is_on_device = False  # it was sent from one
        self._flag = DeviceFlag()
        self._now: tuple[list[str], tuple[Any, ...]] = ([], ())  # as what was agreed on: lines, and of what kind
        self._own = 0
        self._first: list[str] | None = None
        self._read(modifiers, param_groups, by_reference)
        self._first, self._agreed = self._now[0], self._now

    @property
    def numbers(self) -> tuple[int, int, int]:
        """1, d and d²."""
        return 1, self._own, self._own**2

    @property
    def has_sent(self) -> bool:
        """Whether the last step has added anything up."""
        return bool(self._last)

    @property
    def is_open(self) -> bool:
        """Whether this process has changed something, and has not heard of the others yet."""
        return self._now is not self._agreed

    def look(self, modifiers: Modifiers, param_groups: Sequence[Mapping[str, Any]], by_reference: bool) -> None:
        """At the beginning of a step: whether this process has changed anything.

        Raises:
            RuntimeError: in every process, where not all have changed the same, or had not in an earlier step.
            LeftOut: on a GPU, where this process alone has changed what it sends, and the others will hear of it.
        """
        self._is_first = True
        if self._flag.is_heard():
            raise self._disagreement("in a step before this one")
        targets = None if self._targets is None else _targets(param_groups)
        is_same = modifiers is self._modifiers and targets == self._targets and by_reference is self._by_reference
        if is_same and not self.is_open:
            return
        self._read(modifiers, param_groups, by_reference)
        if self._now[1] != self._agreed[1]:
            self._repeat()

    def replaced(self, modifiers: Modifiers, param_groups: Sequence[Mapping[str, Any]], said: str) -> bool:
        """Says to the others that this process has something else than before, before it asks what they have.

        Args:
            modifiers, param_groups: as of :meth:`look`.
            said: what it has, for an error.

        Returns:
            Whether they were told: not where nothing was ever added up.

        Raises:
            RuntimeError, LeftOut: as of :meth:`look`, where not all have.
        """
        self._read(modifiers, param_groups, self._by_reference)
        lines, kind = self._now
        self._take([*lines[:-1], said], kind)
        return self._repeat()

    def carried(self) -> Carried:
        """What goes with the sums of one exchange."""
        return Carried(self)

    def settle(self, numbers: Sequence[float], again: Again) -> None:
        """After an exchange on the host, of which ``numbers`` are the sums n, s and q.

        Raises:
            RuntimeError: in every process, where what they have is not the same any more.
        """
        if not _are_alike(numbers):
            raise self._disagreement("since this step")
        self._agreed = self._now
        if self._is_first:
            self._last, self._is_first, self._is_on_device = [again], False, False

    def sent(self, counters: Tensor, again: Again) -> None:
        """After an exchange on a device, which compares the sums itself, and keeps in ``counters`` what it finds."""
        if self._is_first:
            self._agreed, self._last, self._is_first, self._is_on_device = self._now, [], False, True
            self._flag.count(counters)
        self._last.append(again)

    def _repeat(self) -> bool:
        if not self._last or not dist.is_initialized():
            return False
        is_alike = all([_are_alike(again()) for again in self._last])  # noqa: C419  the others ask for every one
        if self._is_on_device and self._flag.leaves_out(is_alike):
            raise LeftOut
        if not is_alike:
            raise self._disagreement("since this step")
        self._agreed, self._last = self._now, []
        return True

    def _read(self, modifiers: Modifiers, param_groups: Sequence[Mapping[str, Any]], by_reference: bool) -> None:
        self._modifiers, self._by_reference = modifiers, by_reference
        self._targets = _targets(param_groups) if self._spec.family == "soft_threshold" else None
        lines = lines_of(self._spec, self._scope, modifiers, param_groups, apart=self._apart)
        lines.append("the reference path's steps" if by_reference else "a compiled backend's steps")
        lines.append("parameters and state as before")
        self._take(lines, (by_reference, *_kind(modifiers, self._targets)))

    def _take(self, lines: list[str], kind: tuple[Any, ...]) -> None:
        most: int = 2**self._bits - 1
        self._now, self._own = (lines, kind), 0 if self._first in (None, lines) else 1 + hash_of(lines) % most

    def _disagreement(self, when: str) -> RuntimeError:
        remedy = "Change policies, targets, parameters and state in each process alike, between the same steps"
        if self._together:  # all of whom are here
            found = disagreement(self._now[0], self._sums[0][0], remedy)
            if found is not None:
                return found
        return RuntimeError(f"the processes of this optimizer disagree {when}: {remedy}")


class Carried:
    """The numbers that go with the sums of one exchange, over one set of processes after the other.

    Args:
        agreed: whose numbers.
    """

    def __init__(self, agreed: Agreed) -> None:
        self._agreed = agreed
        self._numbers = torch.tensor(agreed.numbers, dtype=torch.float64, device="cpu")
        self._shape: list[tuple[Over, int]] = []

    def added(self, values: Tensor, over: Over) -> Tensor:
        """The values of all processes, added up: [values], float64 on the host."""
        self._shape.append((over, len(values)))
        joined = added(torch.cat([values, self._numbers]), over)
        self._numbers = joined[len(values) :]
        return joined[: len(values)]

    def close(self) -> None:
        """Raises RuntimeError, in every process, where what they have is not the same any more."""
        if self._shape:
            self._agreed.settle(self._numbers.tolist(), partial(_again, self._agreed, self._shape))


def _again(agreed: Agreed, shape: Sequence[tuple[Over, int]]) -> list[float]:
    carried = agreed.carried()
    for over, length in shape:
        carried.added(torch.zeros(length, dtype=torch.float64, device="cpu"), over)
    return carried._numbers.tolist()


def _are_alike(numbers: Sequence[float]) -> bool:
    """Whether all processes go by the same, by the sums n, s and q."""
    count, total, squares = map(int, numbers)
    return count * squares == total**2


def _targets(param_groups: Sequence[Mapping[str, Any]]) -> list[Any]:
    """By their values, of tensors too, which may be written in place; those on a GPU as they are, which is no wait."""
    given = [group.get(TARGET) for group in param_groups]
    return [each if isinstance(each, Tensor) and each.device.type != "cpu" else number_of(each) for each in given]


def _kind(modifiers: Modifiers, targets: Sequence[Any] | None) -> tuple[Any, ...]:
    """What decides what an exchange consists of. Nothing but clip policies and targets can be assigned to."""
    clip = modifiers.clip
    clips = [(each.unit, type(each.policy)) for each in modifiers.group_clips]
    return type(clip), getattr(clip, "scope", None), clips, [target is None for target in targets or ()]


def lines_of(
    spec: RuleSpec,
    scope: Scope,
    modifiers: Modifiers,
    param_groups: Sequence[Mapping[str, Any]],
    *,
    apart: bool,
) -> list[str]:
    """What all processes of an optimizer have in common, whatever their parameters are.

    Args:
        spec: the rule.
        scope: over which elements that takes its norms, if any.
        modifiers: its policies.
        param_groups: as in ``optimizer.param_groups``.
        apart: whether other processes hold other parameters.
    """
    policies = f"rule {spec.name} over {scope.value}, clip {modifiers.clip}, step_size {modifiers.step_size}, "
    policies += (
        f"skip {modifiers.skip}, extensions {modifiers.extensions}, {[each.policy for each in modifiers.group_clips]}, "
        f"precision {modifiers.precision}, "
    )
    targets = ""
    if spec.family == "soft_threshold":
        targets = f", target_sparsity {[number_of(group.get(TARGET)) for group in param_groups]}"
    sizes = [len(group["params"]) for group in param_groups]
    # Those that hold other parameters have as many groups where something is added up by group.
    has_sums = takes_sums(spec, param_groups, measures=modifiers.measures)
    groups = sizes if not apart else len(sizes) if has_sums else "of its own"
    return [policies, f"param groups {groups}{targets}"]


def hash_of(lines: Sequence[str]) -> int:
    """A number of 63 bits, the same in every process."""
    return int.from_bytes(hashlib.sha256("\n".join(lines).encode()).digest()[:8], "little") >> 1


def disagreement(lines: Sequence[str], processes: Processes, remedy: str) -> RuntimeError | None:
    """The error of all of the processes, which all call this, with the first line that is not the same in each; None
    where all are."""
    said: list[Any] = [None] * len(processes)
    dist.all_gather_object(said, list(lines), group=processes.process_group)
    first = said[0]
    rank = next((index for index, own in enumerate(said) if own != first), None)
    if rank is None:
        return None
    pairs = zip_longest(first, said[rank], fillvalue="no such parameter")
    mine, other = next(pair for pair in pairs if pair[0] != pair[1])
    return RuntimeError(
        f"the processes of this optimizer disagree: rank {processes.ranks[0]} has {mine}, and rank "
        f"{processes.ranks[rank]} has {other}. {remedy}"
    )
