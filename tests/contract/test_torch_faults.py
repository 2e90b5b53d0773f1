"""Faults of torch 2.13 that torchclip must not share; each docstring says what torch does."""

from __future__ import annotations

import pytest
import torch

import torchclip
from memory_guard import Guarded, same_bits

HALVES = (torch.bfloat16, torch.float16)
# From below the narrowest vector of 2-byte elements to several of the widest and a tail.
SIZES = (1, 7, 8, 15, 16, 17, 31, 32, 33, 64, 100, 257, 4099)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_sgd_updates_half_precision_tensors_of_every_size(dtype: torch.dtype, momentum: float, backend: str) -> None:
    """torch's fused CPU SGD writes nothing to bfloat16 and float16 tensors as long as a SIMD vector or longer."""
    params = [torch.nn.Parameter(torch.randn(n).to(dtype)) for n in SIZES]
    starts = [p.detach().clone() for p in params]
    optimizer = torchclip.SGD(params, lr=0.5, momentum=momentum, backend=backend)
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()
    for p, start in zip(params, starts):
        assert same_bits(p, (start.float() - 0.5).to(dtype))


@pytest.mark.parametrize("cls", [torchclip.SGD, torchclip.Adam, torchclip.AdamW], ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("shape, strides", [((4, 6), (1, 4)), ((4, 6), (9, 1)), ((6,), (2,))], ids=str)
def test_strides_are_respected(
    cls: type[torch.optim.Optimizer], shape: tuple[int, ...], strides: tuple[int, ...], backend: str
) -> None:
    """torch's fused CPU kernels walk memory from ``data_ptr()`` on: a strided view gets the gradients of other
    elements, and its neighbours in the buffer are overwritten."""
    values, gradient = torch.randn(shape), torch.randn(shape)
    guard = Guarded.of(values, strides)
    param, plain = torch.nn.Parameter(guard.view), torch.nn.Parameter(values.clone())
    for p in (param, plain):
        p.grad = gradient.clone()
        cls([p], lr=0.5, backend=backend).step()
    guard.check("parameter")
    torch.testing.assert_close(param.detach(), plain.detach())
    assert not torch.equal(plain.detach(), values)


def test_found_inf_in_the_first_step_leaves_no_momentum_behind(backend: str) -> None:
    """torch's fused SGD keeps the uninitialised momentum_buffer of a first step that found_inf skipped."""
    param = torch.nn.Parameter(torch.ones(300))
    param.grad = torch.full_like(param, 2.0)
    optimizer = torchclip.SGD([param], lr=0.5, momentum=0.9, backend=backend)
    optimizer.grad_scale, optimizer.found_inf = torch.tensor(1.0), torch.tensor(1.0)
    optimizer.step()
    assert torch.equal(param.detach(), torch.ones(300))
    buffer = optimizer.state.get(param, {}).get("momentum_buffer")
    assert buffer is None or torch.equal(buffer, torch.zeros(300))  # where the device alone knows of the skip
    optimizer.found_inf = torch.tensor(0.0)
    optimizer.step()
    assert torch.equal(optimizer.state[param]["momentum_buffer"], torch.full((300,), 2.0))
    assert torch.equal(param.detach(), torch.zeros(300))


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES], ids=str)
def test_a_first_gradient_may_come_late(dtype: torch.dtype, backend: str) -> None:
    """torch's fused SGD with momentum raises when one parameter has a momentum_buffer and another has none yet."""
    early, late = (torch.nn.Parameter(torch.zeros(40, dtype=dtype)) for _ in range(2))
    optimizer = torchclip.SGD([early, late], lr=1.0, momentum=0.5, dampening=0.5, backend=backend)
    early.grad = torch.ones_like(early)
    optimizer.step()
    late.grad = torch.ones_like(late)
    optimizer.step()
    # The first buffer of each is its gradient, undamped: 1, then 0.5 + 0.5.
    assert torch.equal(early.detach(), torch.full_like(early, -2.0))
    assert torch.equal(late.detach(), torch.full_like(late, -1.0))
    assert torch.equal(optimizer.state[late]["momentum_buffer"], torch.ones_like(late))


@pytest.mark.parametrize("found_inf", [1.0, 2.0, 8.0])
@pytest.mark.parametrize("cls", [torchclip.SGD, torchclip.AdamW, torchclip.GRDA], ids=lambda cls: cls.__name__)
def test_found_inf_is_a_sum_over_devices(cls: type[torch.optim.Optimizer], found_inf: float, backend: str) -> None:
    """torch's fused kernels skip the step for ``found_inf == 1``; GradScaler hands over the sum over all devices."""
    param = torch.nn.Parameter(torch.ones(300))
    optimizer = cls([param], lr=0.5, backend=backend)
    param.grad = torch.ones_like(param)
    optimizer.step()
    before = param.detach().clone()
    state = {name: value.clone() for name, value in optimizer.state[param].items()}
    optimizer.grad_scale, optimizer.found_inf = torch.tensor(1.0), torch.tensor(found_inf)
    optimizer.step()
    assert same_bits(param, before)
    assert all(same_bits(optimizer.state[param][name], value) for name, value in state.items())


def test_float16_norm_beyond_its_range(backend: str) -> None:
    """torch measures the norm of float16 gradients in float16: above 65504 it is infinite, the factor is 0, and the
    gradients become zeros."""
    param = torch.nn.Parameter(torch.zeros(64, dtype=torch.float16))
    param.grad = torch.full_like(param, 20_000.0)  # norm 160,000
    optimizer = torchclip.SGD([param], lr=1.0, clip=8.0, backend=backend)
    optimizer.step()
    torch.testing.assert_close(optimizer.grad_norm.float(), torch.tensor(160_000.0))
    assert torch.equal(param.detach(), torch.full_like(param, -1.0))
    torch.testing.assert_close(torchclip.get_total_norm([param.grad]).float(), torch.tensor(160_000.0))
    torchclip.clip_grad_norm_([param], 8.0)
    assert torch.equal(param.grad, torch.ones_like(param))
