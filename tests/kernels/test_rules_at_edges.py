"""Where a rule's formula leaves the numbers: a variance below zero, and NaN in a maximum."""

from __future__ import annotations

import math

import pytest
import torch

import torchclip
from builders import ADAMS
from memory_guard import same_bits
from records import BACKENDS, DTYPES

each_backend = pytest.mark.parametrize("backend", BACKENDS, indirect=True)
COUNT = 37
"""Elements: whole vectors and a tail."""


@each_backend
@pytest.mark.parametrize("momentum", (0.0, 0.5))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_variance_below_zero_counts_as_zero(dtype: torch.dtype, momentum: float, backend: str) -> None:
    """Centered RMSprop on a gradient that hardly varies: (1 + 1) / 2 - ((9/8 + 1) / 2)² < 0, and g / eps is left."""
    param = torch.nn.Parameter(torch.zeros(COUNT, dtype=dtype))
    optimizer = torchclip.RMSprop(
        [param], lr=0.25, alpha=0.5, eps=0.5, momentum=momentum, centered=True, backend=backend
    )
    optimizer.state[param] = {
        "step": torch.tensor(3.0),
        "square_avg": torch.ones_like(param),
        "grad_avg": torch.full_like(param, 1.125),
        **({"momentum_buffer": torch.zeros_like(param)} if momentum else {}),
    }
    param.grad = torch.ones_like(param)
    optimizer.step()
    assert same_bits(param.detach(), torch.full((COUNT,), -0.5, dtype=dtype))
    assert float(optimizer.state[param]["grad_avg"][0]) == 1.0625


# In the gradient, whose square it becomes; in the average; and in the maximum alone, which only a hand can have put.
PLACES = ("gradient", "exp_avg_sq", "max_exp_avg_sq")


@each_backend
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("cls", [cls for cls in ADAMS if "amsgrad" in cls([torch.zeros(1)]).defaults])
def test_nan_stays_in_the_largest_square(cls: type[torch.optim.Optimizer], place: str, backend: str) -> None:
    """As under torch.maximum: in that element alone, and for good."""
    like = torch.optim.Adam if cls is torchclip.Adam else torch.optim.AdamW
    sets = [[torch.nn.Parameter(torch.ones(COUNT))] for _ in range(2)]
    pair = [
        made(params, lr=0.1, amsgrad=True, **extra)
        for made, params, extra in (
            (cls, sets[0], {"backend": backend}),
            (like, sets[1], {}),
        )
    ]
    for step in range(4):
        for (param,), optimizer in zip(sets, pair):
            param.grad = torch.linspace(0.5, 2.0, COUNT) / (1 + step)
            if step == 1:
                spoilt = param.grad if place == "gradient" else optimizer.state[param][place]
                spoilt[5] = math.nan
            optimizer.step()
            largest = optimizer.state[param]["max_exp_avg_sq"]
            assert largest.isnan().nonzero().tolist() == ([[5]] if step > 0 else [])
            assert param.isnan().nonzero().tolist() == ([[5]] if step > 0 else [])
    torch.testing.assert_close(sets[0], sets[1], equal_nan=True)
