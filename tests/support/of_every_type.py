"""Parameters and gradients with which a step can be compared in every type, half precision included."""

from __future__ import annotations

import torch

LR = 0.5
"""With which a kernel that writes nothing is noticed in every type."""

SIZES = (3, 64, 1000)


def starts(dtype: torch.dtype) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(3)
    return [torch.nn.Parameter(torch.randn(size, generator=generator).to(dtype)) for size in SIZES]


def write_gradients(step: int, *sets: list[torch.nn.Parameter]) -> None:
    """Of sizes between 1/4 and 2, whose squares float16 can hold a thousandth of, as Adam's state does."""
    generator = torch.Generator().manual_seed(10 + step)
    for group in zip(*sets):
        size = 0.25 + 1.75 * torch.rand(group[0].shape, generator=generator)
        value = (size * torch.randn(group[0].shape, generator=generator).sign()).to(group[0].dtype)
        for param in group:
            param.grad = value.clone()
