"""Which parameters a step can move. Those of a frozen part of a model stand in an optimizer and are never touched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


def can_step(parameter: Tensor) -> bool:
    """Whether a step may move it: one that asks for no gradient and has none is left alone, whatever its kind."""
    return parameter.requires_grad or parameter.grad is not None


def leading_parameter(param_groups: Sequence[Mapping[str, Any]]) -> Tensor | None:
    """The first that can step, or, where none can, the first: numbers that belong to no single one lie beside it."""
    everyone = (parameter for group in param_groups for parameter in group["params"])
    first: Tensor | None = next(everyone, None)
    if first is None or can_step(first):
        return first
    return next(filter(can_step, everyone), first)


def leading_device(param_groups: Sequence[Mapping[str, Any]]) -> torch.device:
    """Where the leading parameter lies; the CPU where there is none."""
    leading = leading_parameter(param_groups)
    return torch.device("cpu") if leading is None else leading.device
