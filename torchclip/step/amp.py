"""What a GradScaler leaves on an optimizer for the time of a step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def scaling_of(optimizer: torch.optim.Optimizer) -> tuple[Tensor | None, Tensor | None]:
    """``grad_scale`` and ``found_inf``, each None where the step is not a GradScaler's."""
    return _tensor(getattr(optimizer, "grad_scale", None)), _tensor(getattr(optimizer, "found_inf", None))


def _tensor(value: Any) -> Tensor | None:
    """A tensor in the place of a number, which GradScaler hands over where no parameter has a gradient."""
    return value if value is None or isinstance(value, Tensor) else torch.tensor(float(value), device="cpu")
