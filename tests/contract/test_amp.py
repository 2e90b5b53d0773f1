"""GradScaler: unscaling, the check for overflow and the skipped step."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor

import torchclip
from builders import (
    KERNELS,
    LOSS,
    assert_no_step_was_taken,
    assert_same_params,
    build,
    copies_of,
    draw_gradients,
    each_kernel,
    each_optimizer,
    leaves,
)
from memory_guard import same_bits


@pytest.mark.parametrize("unscale", [False, True], ids=["", "unscale_"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@each_optimizer
def test_grad_scaler(name: str, dtype: torch.dtype, unscale: bool, backend: str) -> None:
    """Loss scaling changes nothing; max_norm and gamma mean the unscaled norm; an overflow skips the step."""
    params = [torch.nn.Parameter(p.detach().to(dtype)) for p in leaves()]
    copies = copies_of(params)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=100)
    clip = torchclip.ClipByGlobalNorm(1.0)
    scaled, plain = (build(name, group, clip=clip, backend=backend) for group in (params, copies))
    for _ in range(4):
        weights = [torch.randn_like(p) for p in params]
        scaler.scale(sum((p * w).sum() for p, w in zip(params, weights))).backward()
        for p, w in zip(copies, weights):
            p.grad = w.clone()
        if unscale:
            scaler.unscale_(scaled)
        before = [p.grad.clone() for p in params]
        scaler.step(scaled, loss=LOSS)
        scaler.update()
        assert all(same_bits(p.grad, b) for p, b in zip(params, before)), ".grad was written"
        plain.step(loss=LOSS)
        torch.testing.assert_close(params, copies)
        torch.testing.assert_close(scaled.grad_norm, plain.grad_norm)
        scaled.zero_grad()

    def snapshot() -> list[Tensor]:
        return [p.detach().clone() for p in params] + [
            value.clone() for p in params for value in scaled.state[p].values()
        ]

    before = snapshot()
    scaler.scale(sum((p * math.inf).sum() for p in params)).backward()
    if unscale:
        scaler.unscale_(scaled)
    scaler.step(scaled, loss=LOSS)
    scaler.update()
    assert all(same_bits(a, b) for a, b in zip(snapshot(), before))
    assert scaler.get_scale() == 512.0


@pytest.mark.parametrize("name, clip", [("adamw", 1.0), ("ada_grad_norm", None)])
def test_a_gradient_whose_square_overflows_before_it_is_unscaled(name: str, clip: float | None, backend: str) -> None:
    """The loss scale is undone before anything is squared."""
    params = [torch.nn.Parameter(torch.randn(5_003))]
    copies = copies_of(params)
    scaled, plain = (build(name, group, clip=clip, backend=backend) for group in (params, copies))
    scale = 2.0**80
    scaled.grad_scale, scaled.found_inf = torch.tensor(scale), torch.tensor(0.0)
    copies[0].grad = torch.randn_like(copies[0])
    params[0].grad = scale * copies[0].grad
    scaled.step()
    plain.step()
    assert scaled.grad_norm.isfinite()
    torch.testing.assert_close(scaled.grad_norm, plain.grad_norm)
    assert_same_params(params, copies)


def test_a_float16_gradient_is_unscaled_in_float32(backend: str) -> None:
    """(1 + 2^-10) / 2^16 would lose its last bit in float16, whose least steps are 2^-24."""
    param = torch.nn.Parameter(torch.zeros(8, dtype=torch.float16))
    optimizer = torchclip.SGD([param], lr=2.0**14, backend=backend)
    param.grad = torch.full_like(param, 1 + 2.0**-10)
    optimizer.grad_scale, optimizer.found_inf = torch.tensor(2.0**16), torch.tensor(0.0)
    optimizer.step()
    assert param.tolist() == [-(1 + 2.0**-10) / 4] * 8


def test_rows_that_are_longer_than_a_piece_of_work(backend: str) -> None:
    """What the scaler decides comes before the rows' sums are there."""
    params = [torch.nn.Parameter(torch.randn(shape)) for shape in ((3, 5000), (40, 5))]
    copies = copies_of(params)
    scaled, plain = (build("ada_grad_norm_row", group, backend=backend) for group in (params, copies))
    scaled.grad_scale, scaled.found_inf = torch.tensor(4.0), torch.tensor(0.0)
    for _ in range(3):
        for param, twin in zip(params, copies):
            twin.grad = torch.randn_like(twin)
            param.grad = 4 * twin.grad
        scaled.step()
        plain.step()
    assert_same_params(params, copies)


@each_kernel
@pytest.mark.parametrize("found_inf", [1.0, 2.0], ids=["one_device", "sum_over_two"])
def test_found_inf_is_no_error_of_the_policy(name: str, found_inf: float, backend: str) -> None:
    """Where the loss scale has overflowed, a norm that is not finite is the scaler's business, and raises nothing."""
    cls, options = KERNELS[name]
    params = leaves()
    before = [p.detach().clone() for p in params]
    optimizer = cls(params, **options, clip=torchclip.ClipByGlobalNorm(1.0, nonfinite="error"), backend=backend)
    params[0].grad[0, 0] = math.inf
    optimizer.grad_scale, optimizer.found_inf = torch.tensor(4.0), torch.tensor(found_inf)
    optimizer.step()
    assert_same_params(params, before)
    assert_no_step_was_taken(optimizer)
    optimizer.found_inf = torch.tensor(0.0)
    with pytest.raises(RuntimeError, match="not finite: parameter 0 of param group 0"):
        optimizer.step()


@each_optimizer
def test_found_inf_of_a_first_step_leaves_it_to_be_taken(name: str, backend: str) -> None:
    params = leaves()
    before = [p.detach().clone() for p in params]
    optimizer = build(name, params, backend=backend)
    optimizer.grad_scale, optimizer.found_inf = torch.tensor(4.0), torch.tensor(1.0)
    optimizer.step(loss=LOSS)
    assert_same_params(params, before)
    assert_no_step_was_taken(optimizer)
    del optimizer.grad_scale, optimizer.found_inf
    optimizer.step(loss=LOSS)
    assert not any(torch.equal(p.detach(), b) for p, b in zip(params, before))


@pytest.mark.parametrize("way", ["add_param_group", "checkpoint", "deepcopy"])
def test_a_first_step_that_was_skipped_is_still_to_come(way: str, backend: str) -> None:
    """With dampening it differs from later ones; on a device, the state that was made for it is there already."""
    options = {"lr": 0.1, "momentum": 0.9, "dampening": 0.5}
    params = leaves(2)
    copies = copies_of(params)
    tested, plain = torchclip.SGD(params, **options, backend=backend), torch.optim.SGD(copies, **options)
    tested.grad_scale, tested.found_inf = torch.tensor(1.0), torch.tensor(1.0)
    tested.step()
    tested.grad_scale = tested.found_inf = None
    if way == "add_param_group":
        added = leaves(1)
        copied = copies_of(added)
        tested.add_param_group({"params": added})
        plain.add_param_group({"params": copied})
        params, copies = params + added, copies + copied
    elif way == "checkpoint":
        saved = tested.state_dict()
        assert saved["state"] == {}
        tested = torchclip.SGD(params, **options, backend=backend)
        tested.load_state_dict(saved)
    else:
        tested = copy.deepcopy(tested)
        params = tested.param_groups[0]["params"]
    for step in range(3):
        draw_gradients(step, params, copies)
        tested.step()
        plain.step()
        torch.testing.assert_close(params, copies)
