"""A step never waits for the device, and neither does looking at what it measured."""

from __future__ import annotations

import pytest
import torch

import torchclip
from gpu_runs import (
    BACKEND,
    COMBINATIONS,
    DEVICE,
    combined,
    made,
    parameters,
    torch_must_not_wait,
    unfinished_work,
)


@pytest.mark.parametrize("combination", COMBINATIONS)
def test_steps_and_measurements_do_not_wait(combination: str) -> None:
    params = parameters()
    optimizer = combined(combination, params)
    loss = torch.ones((), device=DEVICE)
    measures = "clip" in COMBINATIONS[combination][1] and "value" not in combination
    gradients = [[torch.randn_like(param) for param in params] for _ in range(3)]
    for _ in range(2):
        optimizer.step(loss=loss)
        optimizer.metrics()
    with torch_must_not_wait(), unfinished_work():
        for moved in gradients:
            for param, gradient in zip(params, moved):
                param.grad = gradient
            optimizer.step(loss=loss)
            if measures:
                assert optimizer.grad_norm.is_cuda
                assert optimizer.clip_factor.is_cuda
            optimizer.metrics()


@pytest.mark.parametrize("name", ["sgd", "adamw", "mix_clip", "ada_grad_norm_row", "grda"])
def test_what_changes_between_steps_does_not_wait(name: str) -> None:
    """A schedule in floats, a gradient that is missing, and one that is back."""
    params = parameters()
    optimizer = made(name, params, clip=1.0)
    gradient = params[1].grad
    for missing in (None, gradient, None, gradient):
        params[1].grad = missing
        optimizer.step(loss=1.0)
    with torch_must_not_wait(), unfinished_work():
        for step, missing in enumerate((None, gradient)):
            params[1].grad = missing
            optimizer.param_groups[0]["lr"] = 0.1 / (2 + step)
            optimizer.step(loss=1.0)


def test_first_steps_do_not_wait() -> None:
    """Not even those that make state and tables; memory is there, since asking the driver for more would wait."""
    spare = torch.empty(64 << 20, device=DEVICE)
    optimizer = torchclip.AdamW(parameters(), clip=1.0, backend=BACKEND)
    del spare
    with torch_must_not_wait():
        optimizer.step()


def test_error_on_nonfinite_norms_is_what_waits() -> None:
    params = parameters()
    optimizer = made("adamw", params, clip=torchclip.ClipByGlobalNorm(1.0, nonfinite="error"))
    optimizer.step()
    before = [param.detach().clone() for param in params]
    params[0].grad[0, 0] = torch.nan
    with pytest.raises(RuntimeError, match="not finite"):
        optimizer.step()
    assert all(torch.equal(param, start) for param, start in zip(params, before))


def test_numbers_on_the_device_are_refused_but_for_lr() -> None:
    """Each would be waited for in every step."""
    params = parameters()
    optimizer = made("adamw", params, clip=1.0)
    optimizer.step()
    optimizer.param_groups[0]["weight_decay"] = torch.tensor(0.1, device=DEVICE)
    with pytest.raises(RuntimeError, match="weight_decay is a tensor on cuda:0.*only lr may be one"):
        optimizer.step()
