"""What a step asks of all DTensors at once, in Python; ``torchclip._torch``, where it is, has the same functions.

See csrc/reader/dtensors.h.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import attrgetter, is_
from typing import Any

import torch
from torch import Tensor

_LOCAL = attrgetter("_local_tensor")


def lend_gradients(parameters: Sequence[Tensor], parts: Sequence[Tensor], specs: Sequence[Any]) -> Sequence[int]:
    """Gives parts of parameters those of their gradients, where these are as nearly all are. The positions of others,
    which are all of them here."""
    return range(len(parameters))


def take_gradients_back(parts: Sequence[Tensor]) -> None:
    """Leaves parts without gradients."""
    for part in parts:
        part.grad = None


def count_versions(parameters: Sequence[Tensor], others: Sequence[Tensor]) -> None:
    """Tells autograd that parameters with gradients were written, and all others."""
    written = [one for one in parameters if one.grad is not None]
    torch.autograd.graph.increment_version([*written, *others])


def hold_parameters(param_groups: Sequence[Mapping[str, Any]], parameters: Sequence[Sequence[Tensor]]) -> bool:
    """Whether those are in an optimizer's param groups."""
    if len(param_groups) != len(parameters):
        return False
    return all(_same(group["params"], known) for group, known in zip(param_groups, parameters, strict=True))


def hold_parts(sharded: Sequence[Tensor], parts: Sequence[Tensor]) -> bool:
    """Whether those are what DTensors hold."""
    return all(map(is_, map(_LOCAL, sharded), parts))


def hold_values(state: Mapping[Tensor, Any], dicts: Sequence[Any], values: Sequence[Any]) -> bool:
    """Whether an optimizer's state consists of those, and those dicts of those values."""
    return _same(list(state.values()), dicts) and _same(values_of(dicts), values)


def values_of(dicts: Sequence[Any]) -> list[Any]:
    """All that those of them hold that are dicts."""
    return [value for held in dicts if isinstance(held, dict) for value in held.values()]


def _same(now: Sequence[Any], before: Sequence[Any]) -> bool:
    return len(now) == len(before) and all(map(is_, now, before))
