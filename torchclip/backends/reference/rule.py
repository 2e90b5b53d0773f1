"""What an update rule is to the reference path."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from torchclip.backends.reference.policies import Norms

Group = Mapping[str, Any]
State = dict[str, Tensor]
Stepped = tuple[Tensor, State]
"""The new parameter and the new state."""


@dataclass(frozen=True)
class ReferenceRule:
    """An update rule.

    Args:
        step: ``(parameter, gradient, state, group, first, norms) -> (new parameter, new state)``; ``first`` says that
            the state was made in this very step, and ``norms`` is None unless the rule clips itself. The numbers of the
            state (``step``, ``l1``) are 0-dim float64 tensors.
        accumulate: ``(gradient, state, group, first) -> new state``, of which a rule that clips itself measures the
            direction before it steps; None for others.
        clip_factor: ``(norms, group) -> factor on lr``, 0-dim, what a rule that clips itself reports; None for others.
    """

    step: Callable[[Tensor, Tensor, State, Group, bool, Norms | None], Stepped]
    accumulate: Callable[[Tensor, State, Group, bool], State] | None = None
    clip_factor: Callable[[Norms, Group], Tensor] | None = None
