"""Run by tests/kernels/test_triton_dispatch.py without TRITON_INTERPRET and with a cache that is empty."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable

import torch
import triton

import fake_gpu
import torchclip
from fake_gpu import launched
from torchclip.backends.triton import launches

fake_gpu.install()

NORM, DIRECTION, UPDATE = "gradient_norm_kernel", "direction_norm_kernel", "update_kernel"
FINISH = "finish_step_kernel"


def parameters(count: int = 300) -> list[torch.nn.Parameter]:
    """Small parameters with gradients."""
    params = [torch.nn.Parameter(torch.randn(16, 16)) for _ in range(count)]
    for param in params:
        param.grad = torch.randn_like(param)
    return params


def launches_of(step: Callable[[], object]) -> list[str]:
    """The kernels of a step, by name."""
    launched.clear()
    step()
    return [name for name, _ in launched]


def check_launches() -> None:
    params = parameters()
    for made, expected in (
        (torchclip.SGD(params, lr=0.1, momentum=0.9, clip=1.0, backend="triton"), [NORM, UPDATE]),
        (torchclip.AdamW(params, clip=1.0, backend="triton"), [NORM, UPDATE]),
        (torchclip.GRDA(params, lr=0.1, c=0.1, clip=1.0, backend="triton"), [NORM, UPDATE]),
        (torchclip.MixClip(params, lr=0.1, gamma=1.0, momentum=0.9, backend="triton"), [DIRECTION, UPDATE]),
        (torchclip.SGD(params, lr=0.1, momentum=0.9, backend="triton"), [UPDATE]),
        (torchclip.AdamW(params, backend="triton"), [FINISH, UPDATE]),
        (torchclip.AdaGradNorm(params, lr=0.1, scope="row", backend="triton"), ["row_direction_norm_kernel", UPDATE]),
    ):
        for _ in range(3):
            assert launches_of(made.step) == expected, type(made).__name__
    first = parameters(1)
    torchclip.SGD(first, lr=0.1, backend="triton").step()
    assert launched[-1] == (UPDATE, 1)  # a program for each piece of a chunk
    first = [torch.nn.Parameter(torch.zeros(9000, dtype=dtype)) for dtype in (torch.float32, torch.float64)]
    for param in first:
        param.grad = torch.ones_like(param)
    launches_of(torchclip.SGD(first, lr=0.1, clip=1.0, backend="triton").step)
    assert sorted(launched) == [(NORM, 3), (NORM, 3), (UPDATE, 3), (UPDATE, 6)], launched  # chunks of 4096


def check_compiles_once() -> None:
    compiled: list[str] = []
    listener = lambda **event: compiled.append(event["src"].fn.__name__)  # noqa: E731
    triton.knobs.compilation.listener = listener
    params = parameters(3)
    optimizer = torchclip.AdaLoss(params, lr=torch.tensor(0.1), clip=1.0, backend="triton")
    # A loss and a found_inf of any alignment, gradients anywhere, another number of tensors, and schedules.
    numbers = torch.ones(8)
    for step in range(6):
        for param in params:
            param.grad = torch.randn_like(param)
        params[1].grad = None if step == 3 else params[1].grad
        optimizer.param_groups[0]["lr"].mul_(0.5)
        optimizer.step(loss=numbers[step])
    names = sorted(compiled)
    assert names == [NORM, UPDATE], names
    optimizer.found_inf, optimizer.grad_scale = numbers[1], numbers[2]
    optimizer.step(loss=numbers[0])
    assert len(compiled) == 3, "AMP's norm pass alone is another variant"


def check_says_so_once() -> None:
    launches.WORTH_TELLING = 0.0
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        for optimizer in (torchclip.SGD, torchclip.AdamW):
            made = optimizer(parameters(3), lr=0.1, backend="triton")
            made.step()
            made.step()
    lines = said.getvalue().splitlines()
    assert len(lines) == 1 and "compiled Triton kernels in" in lines[0] and triton.knobs.cache.dir in lines[0], lines


if __name__ == "__main__":
    check_says_so_once()
    check_compiles_once()
    check_launches()
