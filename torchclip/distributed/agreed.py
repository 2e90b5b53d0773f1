"""What the processes of an optimizer have agreed on, and changes of it: found out in the exchange of a step.

Behind its sums every process sends 1, d and d², where d is 0 unless it has something else than all had at first, and
else a number of what it has now. Of their sums n, s and q,

.. math:: n q = s^2

holds if and only if all have the same d (Cauchy and Schwarz). So all come to the same answer in the same step, before
anything is written. They are integers that float64 adds up exactly. On a GPU the device leaves the step out, and the
host, which does not wait for it, hears of that before one of the next steps.

A process alone cannot call a collective. Where what it has changed makes its exchange another one, or none, it takes
part in that of the step before once more, with zeros for its sums, and in its own only if the others have changed, too.
On a GPU it takes part in all of that step's, since the others go on to the next.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from torchclip.distributed.arrival import Arrival
from torchclip.distributed.exchange import Over, added, takes_sums
from torchclip.distributed.processes import Processes
from torchclip.policies.modifiers import Modifiers
from torchclip.rules.hyperparameters import number_of
from torchclip.rules.norms import Scope
from torchclip.rules.rule_spec import RuleSpec
from torchclip.rules.soft_threshold import TARGET

Sent = list[tuple[Over, int]]
"""Over whom how many numbers went in an exchange, without those that are behind them."""

Lines = tuple[list[str], tuple[Any, ...]]
"""What a process has: in words, and what decides what an exchange consists of."""

ROOM = 53
"""Bits of the integers that float64 holds."""


class Agreed:
    """Of one layout.

    Args:
        sums: over which processes there are sums.
        apart: whether some of them hold other parameters in the place of this process's.
        spec: the rule.
        scope: over which elements that takes its norms, if any.
        modifiers: its policies.
        param_groups: as in ``optimizer.param_groups``.
    """

    def __init__(
        self,
        sums: Sequence[Over],
        apart: bool,
        spec: RuleSpec,
        scope: Scope,
        modifiers: Modifiers,
        param_groups: Sequence[Mapping[str, Any]],
    ) -> None:
        self._sums, self._apart, self._spec, self._scope = sums, apart, spec, scope
        everyone = prod(len(processes) for over in sums for processes in over)
        self._bits = max((ROOM - everyone.bit_length()) // 2, 1)
        self._own = 0
        self._last: Sent = []  # in the first exchange of the last step, or in all from a device
        self._device: torch.device | None = None  # of which nothing is waited for; None: the host adds up
        self._arrival = Arrival()
        self._heard: Lines = ([], ())  # what this process had when it has sent what arrives
        self._is_first = True
        self._first: Lines | None = None
        self._now = self._first = self._agreed = self._read(modifiers, param_groups)

    @property
    def numbers(self) -> tuple[int, int, int]:
        """1, d and d²."""
        return 1, self._own, self._own**2

    @property
    def is_open(self) -> bool:
        """Whether this process has changed something, and has not heard of the others yet."""
        return self._now is not self._agreed

    def look(self, modifiers: Modifiers, param_groups: Sequence[Mapping[str, Any]]) -> None:
        """At the beginning of a step: whether this process has changed anything.

        Raises:
            RuntimeError: in every process, where not all have changed the same, or had not in a step before.
        """
        self._is_first = True
        self._hear()
        targets = None if self._targets is None else _targets(param_groups)
        if not self.is_open and modifiers is self._modifiers and targets == self._targets:
            return
        self._now = self._read(modifiers, param_groups)
        if self._now[1] != self._agreed[1]:
            self._repeat()

    def replaced(self, modifiers: Modifiers, param_groups: Sequence[Mapping[str, Any]]) -> bool:
        """Says to the others that this process has other parameters, before it asks what they have.

        Returns:
            Whether they were told: not where nothing was ever added up.

        Raises:
            RuntimeError: in every process, where not all have.
        """
        lines, kind = self._read(modifiers, param_groups)
        self._now = ([*lines, "other parameters than before"], kind)
        self._own = self._number(self._now)
        return self._repeat()

    def carried(self) -> Carried:
        """What goes with the sums of one exchange."""
        return Carried(self)

    def settle(self, numbers: Sequence[float], sent: Sent) -> None:
        """After an exchange, of which ``numbers`` are the sums of all processes'.

        Raises:
            RuntimeError: in every process, where what they have is not the same any more.
        """
        if not _are_alike(numbers):
            raise self._disagreement()
        self._agreed = self._now
        if self._is_first:
            self._last, self._is_first = sent, False

    def settle_later(self, numbers: Tensor, sent: Sent) -> None:
        """The same on a device, which is not waited for. The last three of ``numbers`` are the sums."""
        if self._is_first:
            self._device, self._heard, self._last = numbers.device, self._now, []
            self._arrival.send(numbers[-3:])
        self._is_first = False
        self._last += sent

    def _hear(self) -> None:
        numbers = self._arrival.take()
        if numbers is None:
            return
        if not _are_alike(numbers):
            raise self._disagreement()
        self._agreed = self._heard

    def _repeat(self) -> bool:
        if not self._last or not dist.is_initialized():
            return False
        carried = self.carried()
        for over, length in self._last:
            carried.added(torch.zeros(length, dtype=torch.float64, device=self._device or "cpu"), over)
        if self._device is not None:
            self._arrival.send(carried.numbers)  # so that the next step fails where those of the others do
        carried.close()
        self._arrival.take()
        self._last, self._is_first = [], True
        return True

    def _read(self, modifiers: Modifiers, param_groups: Sequence[Mapping[str, Any]]) -> Lines:
        self._modifiers = modifiers
        self._targets = _targets(param_groups) if self._spec.family == "soft_threshold" else None
        lines = lines_of(self._spec, self._scope, modifiers, param_groups, apart=self._apart)
        now = (lines, _kind(modifiers, self._targets))
        self._own = 0 if self._first in (None, now) else self._number(now)
        return now

    def _number(self, now: Lines) -> int:
        most: int = 2**self._bits - 1
        return 1 + hash_of(now[0]) % most

    def _disagreement(self) -> RuntimeError:
        remedy = "Change policies, targets and parameters in each process alike, between the same steps"
        over = {processes for each in self._sums for processes in each}
        if len(over) == 1 and self._device is None:  # all of whom are here, in the same step
            found = disagreement(self._now[0], next(iter(over)), remedy)
            if found is not None:
                return found
        since = "this step" if self._device is None else "this step, or one before it"
        return RuntimeError(f"the processes of this optimizer disagree since {since}: {remedy}")


class Carried:
    """The numbers that go with the sums of one exchange, over one set of processes after the other.

    Attributes:
        numbers: [3]; after an exchange those of all processes.

    Args:
        agreed: whose numbers.
    """

    def __init__(self, agreed: Agreed) -> None:
        self._agreed = agreed
        self.numbers = torch.tensor(agreed.numbers, dtype=torch.float64, device="cpu")
        self._sent: Sent = []

    def added(self, values: Tensor, over: Over) -> Tensor:
        """The values of all processes, added up: [values], float64."""
        self._sent.append((over, len(values)))
        joined = added(torch.cat([values, self.numbers.to(values.device)]), over)
        self.numbers = joined[len(values) :]
        return joined[: len(values)]

    def close(self) -> None:
        """Raises RuntimeError, in every process, where what they have is not the same any more; waits for a device."""
        if self._sent:
            self._agreed.settle(self.numbers.tolist(), self._sent)


def _are_alike(numbers: Sequence[float]) -> bool:
    """Whether all processes have the same, by their sums."""
    count, total, squares = map(int, numbers)
    return count * squares == total**2


def _targets(param_groups: Sequence[Mapping[str, Any]]) -> list[Any]:
    return [group.get(TARGET) for group in param_groups]


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
    mine, other = next(
        (pair for pair in zip(first, said[rank]) if pair[0] != pair[1]),  # noqa: B905  one may have more
        (f"{len(first) - 2} parameters", f"{len(said[rank]) - 2}"),
    )
    return RuntimeError(
        f"the processes of this optimizer disagree: rank {processes.ranks[0]} has {mine}, and rank "
        f"{processes.ranks[rank]} has {other}. {remedy}"
    )
