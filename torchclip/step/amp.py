"""What a GradScaler leaves on an optimizer for the time of a step."""

from __future__ import annotations

from types import FrameType
from typing import Any

import torch
from torch import Tensor

SCALERS = ("torch.amp.grad_scaler", "torch.cuda.amp.grad_scaler", "torch.distributed.fsdp.sharded_grad_scaler")
"""The modules of the classes that scale losses."""


def asks_for_scaling_step(optimizer: torch.optim.Optimizer, caller: FrameType) -> bool:
    """What ``_step_supports_amp_scaling`` says to who asks.

    A GradScaler that hears True leaves the scale to the step. Others who hear it, Lightning's precision plugins say,
    refuse to clip gradients, with bfloat16 too where nothing is scaled; they hear False. So does a GradScaler under
    Accelerate, which takes every call of ``step`` for a step that was taken, and would count one that was skipped.

    Args:
        optimizer: who is asked.
        caller: who asks.
    """
    if not str(caller.f_globals.get("__name__")).startswith(SCALERS):
        return False
    step = vars(optimizer).get("step")
    return not str(getattr(step, "__module__", "")).startswith("accelerate.")


def scaling_tensor(value: Any) -> Tensor | None:
    """``grad_scale`` or ``found_inf``: GradScaler hands over a number where no parameter has a gradient."""
    return value if value is None or isinstance(value, Tensor) else torch.tensor(float(value), device="cpu")
