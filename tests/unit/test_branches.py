"""A term that a rule leaves out is left out: 0 times an infinite number would be a NaN."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import torchclip
from records import BACKENDS

each_backend = pytest.mark.parametrize("backend", BACKENDS, indirect=True)  # the interpreted one too

SIZE = 11
"""Whole vectors and a rest."""

OVERFLOWS = {
    # v is infinite as float16 stores it: 9,000^2 / 1,000 = 81,000.
    "float16": (torch.float16, 9000.0, 1e-5, 0.73046875),
    # v is infinite as it is computed: (1e21)^2 / 1,000 = 1e39.
    "float32": (torch.float32, 1e21, 1e-22, 0.7),
    "bfloat16": (torch.bfloat16, 1e21, 1e-22, 0.6953125),
    "float64": (torch.float64, 1e160, 1e-161, 0.7),
}
"""Type, gradient, learning rate, and what three steps of a tenth or of .09 leave of 1."""


def three_steps(optimizer: torch.optim.Optimizer, parameter: Tensor, gradient: float) -> Tensor:
    for _ in range(3):
        parameter.grad = torch.full_like(parameter, gradient)
        optimizer.step()
    return parameter.detach()


@pytest.mark.parametrize("dtype, gradient, lr, right", OVERFLOWS.values(), ids=OVERFLOWS)
@pytest.mark.parametrize("cls", [torchclip.RAdam, torchclip.RAdamW], ids=lambda cls: cls.__name__)
@each_backend
def test_radam_before_rectification_looks_at_no_second_moment(
    cls: type[torch.optim.Optimizer], dtype: torch.dtype, gradient: float, lr: float, right: float, backend: str
) -> None:
    parameter = torch.nn.Parameter(torch.ones(SIZE, dtype=dtype))
    result = three_steps(cls([parameter], lr=lr, weight_decay=0.0, backend=backend), parameter, gradient)
    assert result.double() == pytest.approx(right, rel=1e-6)
    # float32 has the right value: torch's steps in half precision round more than once.
    other = torch.nn.Parameter(torch.ones(SIZE, dtype=dtype if dtype is torch.float64 else torch.float32))
    wanted = three_steps(torch.optim.RAdam([other], lr=lr), other, gradient)
    torch.testing.assert_close(result, wanted.to(dtype), rtol=2 * torch.finfo(dtype).eps, atol=0.0)


@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.1}, {"dampening": 0.5}], ids=str)
@each_backend
def test_momentum_that_is_not_nesterovs_takes_no_second_gradient(options: dict[str, Any], backend: str) -> None:
    """An infinite gradient takes its element to minus infinity, as in torch, and no other."""
    parameter, other = (torch.nn.Parameter(torch.ones(SIZE)) for _ in range(2))
    ours = torchclip.SGD([parameter], lr=0.1, momentum=0.9, **options, backend=backend)
    theirs = torch.optim.SGD([other], lr=0.1, momentum=0.9, **options)
    for each, optimizer in ((parameter, ours), (other, theirs)):
        each.grad = torch.ones(SIZE)
        each.grad[3] = math.inf
        optimizer.step()
    torch.testing.assert_close(parameter, other)
    assert parameter[3] == -math.inf
    assert parameter[4].item() == pytest.approx(0.89 if "weight_decay" in options else 0.9)


@each_backend
def test_radam_takes_an_infinite_gradient_as_torch_does(backend: str) -> None:
    parameter, other = (torch.nn.Parameter(torch.ones(SIZE)) for _ in range(2))
    for each, optimizer in (
        (parameter, torchclip.RAdam([parameter], lr=0.1, backend=backend)),
        (other, torch.optim.RAdam([other], lr=0.1)),
    ):
        each.grad = torch.ones(SIZE)
        each.grad[SIZE - 1] = math.inf
        optimizer.step()
    torch.testing.assert_close(parameter, other)
    assert parameter[0].item() == pytest.approx(0.9) and parameter[SIZE - 1] == -math.inf


AROUND = {
    "nothing": {},
    "clamped": {"clip": torchclip.ClipByValue(10.0)},
    "by_rows": {"clip": torchclip.AdaptiveGradientClip(clipping=10.0)},
    "noise": {"extensions": (torchclip.GradientNoise(eta=0.0),), "seed": 1},
    "dropout": {"extensions": (torchclip.LRDropout(0.0),), "seed": 1},
}


@pytest.mark.parametrize("options", AROUND.values(), ids=AROUND)
@each_backend
def test_no_decay_takes_nothing_of_the_parameter(options: dict[str, Any], backend: str) -> None:
    """Whatever kernel serves what stands around the rule."""
    weights = torch.ones(SIZE)
    weights[2] = math.inf
    parameter = torch.nn.Parameter(weights)
    optimizer = torchclip.SGD([parameter], lr=0.1, momentum=0.9, **options, backend=backend)
    for right in (0.9, 0.71):
        parameter.grad = torch.ones(SIZE)
        optimizer.step()
        assert parameter[2] == math.inf
        assert torch.cat([parameter[:2], parameter[3:]]).tolist() == pytest.approx([right] * (SIZE - 1))


@pytest.mark.parametrize("options", [AROUND["nothing"], {"clip": torchclip.ClipByValue(40000.0)}], ids=str)
@each_backend
def test_grda_never_reads_the_parameter(options: dict[str, Any], backend: str) -> None:
    """The accumulator, float32, goes beyond what float16 holds and comes back."""
    parameter = torch.nn.Parameter(torch.full((SIZE,), 60000.0, dtype=torch.float16))
    optimizer = torchclip.GRDA([parameter], lr=1.0, **options, backend=backend)
    for gradient, right in ((-30000.0, math.inf), (30000.0, 60000.0)):
        parameter.grad = torch.full_like(parameter, gradient)
        optimizer.step()
        assert parameter.tolist() == [right] * SIZE


def test_autograd_goes_through_the_branch_that_is_taken() -> None:
    """RAdam's first step is p - lr g, whose derivative by g is -lr, at 0 too, where the root's is infinite."""
    start = torch.ones(2, requires_grad=True)
    parameter = start.clone()
    parameter.retain_grad()
    gradient = torch.tensor([0.5, 0.0], requires_grad=True)
    parameter.grad = gradient
    torchclip.RAdam([parameter], lr=0.1, differentiable=True).step()
    parameter.sum().backward()
    assert gradient.grad is not None and gradient.grad.tolist() == pytest.approx([-0.1, -0.1])
