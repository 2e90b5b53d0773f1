"""Param groups with clip policies of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.optim import Optimizer

OWN = object()
"""Stands for the policy of the optimizer in place of a group's own: the key is not there."""


def groups_of(params: Sequence[torch.Tensor], clips: Sequence[Any]) -> list[dict[str, Any]]:
    """One parameter for each group."""
    return [
        {"params": [param]} if clip is OWN else {"params": [param], "clip": clip}
        for param, clip in zip(params, clips, strict=True)
    ]


def step_once(optimizer: Optimizer, params: Sequence[torch.Tensor], gradient: float = 4.0) -> list[float]:
    """By how much each parameter moves when all gradients are alike, with lr 1."""
    before = [float(param) for param in params]
    for param in params:
        param.grad = torch.tensor([gradient])
    optimizer.step()
    return [round(old - float(param), 4) for old, param in zip(before, params, strict=True)]


def scalars(count: int = 2) -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(torch.zeros(1)) for _ in range(count)]
