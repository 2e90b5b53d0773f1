"""Every value of the half-precision types through the loads and stores of the kernels, beside torch's conversions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import torchclip
from memory_guard import bits
from records import BACKENDS

pytestmark = [
    pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16), ids=("float16", "bfloat16")),
    pytest.mark.parametrize("backend", BACKENDS, indirect=True),
]


def every_value(dtype: torch.dtype) -> Tensor:
    """All 65,536, in the order of their bits."""
    return torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype)


def around_every_value(dtype: torch.dtype) -> Tensor:
    """In float32: every number of the type, half-way to the next one away from 0, and just beside that."""
    values = every_value(dtype).float()
    values = values[values.isfinite()]
    following = torch.nextafter(every_value(dtype), torch.full((), torch.inf, dtype=dtype))  # towards infinity
    following = following[every_value(dtype).isfinite()].float()
    largest = torch.finfo(dtype).max
    unit = largest - float(torch.nextafter(torch.tensor(largest, dtype=dtype), torch.zeros((), dtype=dtype)))
    middle = torch.where(following.isfinite(), (values + following) / 2, values + unit / 2)
    up = torch.nextafter(middle, torch.tensor(torch.inf))
    down = torch.nextafter(middle, torch.tensor(-torch.inf))
    full = torch.tensor([2**31 - 1, -1], dtype=torch.int32).view(torch.float32)  # NaN to which nothing can be added
    return torch.cat((values, middle, up, down, torch.tensor([torch.inf, -torch.inf, torch.nan]), full))


def assert_same(ours: Tensor, theirs: Tensor) -> None:
    """Equal bits where there is a number, and NaN where there is none."""
    assert ours.dtype is theirs.dtype
    assert torch.equal(ours.isnan(), theirs.isnan())
    numbers = ~theirs.isnan()
    wrong = bits(ours)[numbers] != bits(theirs)[numbers]
    assert not wrong.any(), (ours[numbers][wrong][:4], theirs[numbers][wrong][:4])


def momentum_step(start: Tensor, gradient: Tensor, buffer: Tensor, backend: str) -> tuple[Tensor, Tensor]:
    """Parameter and buffer after p ← p − b, b ← b / 2 + g; the buffer is float32."""
    param = torch.nn.Parameter(start)
    optimizer = torchclip.SGD([param], lr=1.0, momentum=0.5, backend=backend)
    optimizer.state[param]["momentum_buffer"] = buffer
    param.grad = gradient
    optimizer.step()
    assert optimizer.state[param]["momentum_buffer"].dtype is torch.float32
    return param.detach(), optimizer.state[param]["momentum_buffer"]


def test_every_value_is_read(dtype: torch.dtype, backend: str) -> None:
    """As a gradient, which a float32 buffer keeps as it is."""
    values = every_value(dtype)
    _, buffer = momentum_step(torch.zeros_like(values), values, torch.zeros(values.numel()), backend)
    assert_same(buffer + 0.0, values.float() + 0.0)  # 0 for -0: it was added to a 0


def test_every_value_is_read_and_written(dtype: torch.dtype, backend: str) -> None:
    """As a parameter whose step is 0."""
    values = every_value(dtype)
    param, _ = momentum_step(values.clone(), torch.zeros_like(values), torch.zeros(values.numel()), backend)
    assert_same(param, values)


def test_every_rounding(dtype: torch.dtype, backend: str) -> None:
    """0 minus a float32 number, rounded to the nearest, ties to even, and past the largest to infinity."""
    numbers = around_every_value(dtype)
    numbers = numbers[(2 * numbers).isfinite() | ~numbers.isfinite()]  # of which the double is in the buffer
    zeros = torch.zeros(numbers.numel(), dtype=dtype)
    param, _ = momentum_step(zeros, torch.zeros_like(zeros), 2 * numbers, backend)
    assert_same(param, (0.0 - numbers).to(dtype))
