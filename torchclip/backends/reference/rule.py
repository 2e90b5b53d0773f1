"""What an update rule is to the reference path."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from torchclip.backends.reference.policies import Norms

Group = Mapping[str, Any]
State = dict[str, Tensor]


@dataclass(frozen=True)
class ReferenceRule:
    """An update rule.

    Args:
        accumulate: ``(gradient, state, group, first) -> new state``; ``first`` says that the state was made in this
            very step. The numbers of the state (``step``, ``l1``) are 0-dim float64 tensors.
        apply: ``(parameter, gradient, new state, group, norms) -> new parameter``; ``norms`` is None unless the rule
            clips itself.
        clip_factor: ``(norms, group) -> factor on lr``, 0-dim, what a rule that clips itself reports; None for others.
    """

    accumulate: Callable[[Tensor, State, Group, bool], State]
    apply: Callable[[Tensor, Tensor, State, Group, Norms | None], Tensor]
    clip_factor: Callable[[Norms, Group], Tensor] | None = None
