"""Norms: over which parameters they are taken, in which type they are kept, and what one that is not finite does."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
from torch import Tensor

Number = float | Tensor
"""A number, or a 0-dim tensor where a compiled graph has none."""

HARD_EPS = 1e-6
"""Added to the norm by :func:`torch.nn.utils.clip_grad_norm_`, and therefore here."""


class _Named(str, enum.Enum):
    """A choice that shows as the word by which it is given."""

    def __repr__(self) -> str:
        return repr(self.value)


class Scope(_Named):
    """Over which parameters a norm is taken."""

    OPTIMIZER = "optimizer"
    GROUP = "group"
    TENSOR = "tensor"
    ROW = "row"
    """One row of the leading dimension; only :class:`torchclip.AdaGradNorm` takes it."""


class NonFinite(_Named):
    """What a step does when a norm is infinite or NaN."""

    PROPAGATE = "propagate"
    SKIP = "skip"
    ERROR = "error"


# The words for them, so that an editor or a type checker finds a wrong one.
NormScope = Literal["optimizer", "group", "tensor"]
AnyScope = Literal["optimizer", "group", "tensor", "row"]
OnNonFinite = Literal["propagate", "skip", "error"]

_Choice = TypeVar("_Choice", Scope, NonFinite)


def checked_choice(name: str, value: _Choice | str, allowed: tuple[_Choice, ...]) -> _Choice:
    names = ", ".join(repr(member.value) for member in allowed)
    for member in allowed:
        if value == member:
            return member
    raise ValueError(f"Invalid {name}: {value!r}; choose one of {names}")


def root(value: Number) -> Number:
    """The square root."""
    return value.sqrt() if isinstance(value, Tensor) else math.sqrt(value)


NORM_SCOPES = (Scope.OPTIMIZER, Scope.GROUP, Scope.TENSOR)


def checked_scope(scope: Scope | str, allowed: tuple[Scope, ...] = NORM_SCOPES) -> Scope:
    """The scope that ``scope=`` names.

    Raises:
        ValueError: when there is no such scope among those allowed.
    """
    return checked_choice("scope", scope, allowed)


def norm_dtype(device: torch.device) -> torch.dtype:
    """The type in which norms are kept: Metal has no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


@dataclass(frozen=True)
class Norms:
    """The two norms, 0-dim, that a rule that clips itself measures over the scope of one parameter.

    Args:
        gradient: ‖g‖ of the gradient as the rule sees it.
        direction: ‖m‖ of the new momentum, which is g where the momentum is 0.
        scope: what they are taken over.
        sum: 0-dim, the new sum of the squares of all steps' gradient norms, for a rule that keeps one; None where
            its sums are more than one for a parameter.
        row_squares: [rows, 1, …], the squared norms of this step's gradient over rows that several processes hold; None
            where this one holds them.
    """

    gradient: Tensor
    direction: Tensor
    scope: Scope = Scope.OPTIMIZER
    sum: Tensor | None = None
    row_squares: Tensor | None = None
