"""The one collective of a step: every sum that other processes have a part of, in one array."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from torchclip.distributed.processes import Processes
from torchclip.rules.norms import norm_dtype
from torchclip.rules.rule_spec import RuleSpec
from torchclip.rules.soft_threshold import steers

Over = tuple[Processes, ...]
"""Over which processes a sum goes, one set after the other; over none where it is this process's own."""


class Carries(Protocol):
    """What goes with the sums of one exchange; see :class:`torchclip.distributed.agreed.Carried`."""

    def added(self, values: Tensor, over: Over) -> Tensor:
        """The values of all processes, added up."""

    def close(self) -> None:
        """Raises where the processes do not agree."""


def takes_sums(spec: RuleSpec, param_groups: Sequence[Mapping[str, Any]], *, measures: bool) -> bool:
    """Whether a step goes by sums over all parameters of all processes: squares, or zeros.

    Args:
        spec: its rule.
        param_groups: as in ``optimizer.param_groups``.
        measures: whether it takes the norms of a policy.
    """
    return measures or spec.clips_itself or steers(spec, param_groups)


def processes_in(over: Over) -> int:
    """How many processes a sum over those is one of."""
    return prod(len(processes) for processes in over)


@dataclass
class Sum:
    """A sum over processes.

    Args:
        over: which processes.
        own: this process's part of it.
        value: the sum, of the same shape; there once the exchange has run.
    """

    over: Over
    own: Tensor
    value: Tensor | None = None

    @property
    def total(self) -> Tensor:
        """The sum."""
        assert self.value is not None, "a sum was read before the exchange has run"
        return self.value


class Exchange:
    """The sums of a step. Every process adds the same ones in the same order, of the same shapes.

    Args:
        keys: over which processes there are sums, in an order that is the same in all of them.
        carries: makes what goes with the sums of one run, by which the processes know that they still agree; None for
            nothing.
    """

    def __init__(self, keys: Sequence[Over], carries: Callable[[], Carries] | None = None) -> None:
        self._keys, self._carries = list(keys), carries
        self._waiting: list[Sum] = []

    def add(self, own: Tensor, over: Over, share: float = 1.0) -> Sum:
        """A sum over processes.

        Args:
            own: this process's part, of any shape; the shapes of all are the same.
            over: which processes.
            share: what part of it counts, since others have the same.
        """
        dtype = norm_dtype(own.device)
        own = own.detach().to(dtype) if share == 1 else own.detach().to(dtype) * share
        made = Sum(over, own, None if over else own)
        if over:
            self._waiting.append(made)
        return made

    def run(self) -> None:
        """Sends what was added since the last time: one all-reduce for each set of processes; none for nothing."""
        waiting, self._waiting = self._waiting, []
        carried = None if self._carries is None else self._carries()
        for over in self._keys:
            _add_up([each for each in waiting if each.over == over], over, carried)
        if carried is not None:
            carried.close()  # before anything that a process which has changed something takes no part in
        for over in dict.fromkeys(each.over for each in waiting if each.over not in self._keys):
            _add_up([each for each in waiting if each.over == over], over, None)


def _add_up(sums: Sequence[Sum], over: Over, carried: Carries | None) -> None:
    filled = [each for each in sums if each.own.numel() > 0]
    for each in sums:
        each.value = each.own
    if not filled:
        return
    # Where norms of several devices meet: the first GPU, whose numbers the host need not wait for.
    device = next((each.own.device for each in filled if each.own.device.type != "cpu"), filled[0].own.device)
    joined = torch.cat([each.own.reshape(-1).to(device) for each in filled])
    joined = added(joined, over, carried)
    for each, total in zip(filled, joined.split([each.own.numel() for each in filled]), strict=True):
        each.value = total.reshape(each.own.shape).to(each.own.device)


def added(values: Tensor, over: Over, carried: Carries | None = None) -> Tensor:
    """The values of all processes, added up; may be written.

    Args:
        values: [values].
        over: which processes.
        carried: what goes with them, where they lie on the host: what a GPU adds up nothing waits for.
    """
    if carried is not None and values.device.type == "cpu":
        return carried.added(values, over)
    for processes in over:
        values = all_reduced(values, processes)
    return values


def all_reduced(values: Tensor, processes: Processes, operation: dist.ReduceOp.RedOpType = dist.ReduceOp.SUM) -> Tensor:
    """The values of all of the processes, added up.

    Args:
        values: contiguous; may be written.
        processes: this process among them.
        operation: what is done in place of a sum.

    Raises:
        RuntimeError: where one of them does not take part within the time-out of its group.
    """
    group = processes.process_group
    reached = reached_device(values.device, processes)
    sent = values if reached == values.device else values.to(reached)
    try:
        dist.all_reduce(sent, operation, group=group)
    except RuntimeError as error:
        raise RuntimeError(
            f"ranks {list(processes.ranks)} did not all take part in an all-reduce: one of them has ended, has raised "
            "before it, or has not made this call; what it printed may say why. Nothing was written"
        ) from error
    return sent if sent is values else sent.to(values.device)


def is_capturable(processes: Processes) -> bool:
    """Whether a CUDA graph can capture what is sent among the processes: NCCL alone takes its place on a stream."""
    return "cuda:nccl" in dist.get_backend_config(processes.process_group)


def gathered(number: int, processes: Processes) -> list[int]:
    """The number of each of the processes, in the order of their ranks in the group."""
    own = torch.tensor([number], dtype=torch.int64, device="cpu")
    own = own.to(reached_device(own.device, processes))
    found = [own.clone() for _ in processes.ranks]
    dist.all_gather(found, own, group=processes.process_group)
    return [int(one) for one in found]


def reached_device(device: torch.device, processes: Processes) -> torch.device:
    """Where what is sent has to lie: here, unless the group has a backend for other devices alone, as NCCL's has."""
    kinds: list[torch.device] = list(getattr(processes.process_group, "_device_types", []))
    # What is asked first is all that it takes on a CPU, where each step asks.
    if not kinds or device in kinds or any(kind.type == device.type for kind in kinds):
        return device
    return torch.device(kinds[0].type, torch.accelerator.current_device_index())
