"""Exact zeros are counted without temporaries the size of a parameter, and again where a count no longer holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import torchclip
from emulated import Emulator
from memory_guard import largest_allocation
from torchclip.state.zeros import COUNTED_AT_ONCE

SIDE = 2500
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "dense": lambda values: values,
    "transposed": lambda values: values.t(),
    "gaps": lambda values: values.repeat_interleave(2, 1)[:, ::2],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64], ids=str)
def test_the_memory_that_it_takes(dtype: torch.dtype, layout: str) -> None:
    values = torch.ones(SIDE, SIDE, dtype=dtype)
    values[::5] = 0
    values[1, 1] = -0.0
    values[2, 2] = float("nan")
    assert values.numel() > 4 * COUNTED_AT_ONCE
    param = torch.nn.Parameter(LAYOUTS[layout](values))
    optimizer = torchclip.SGD([param], lr=0.1)
    found: list[Tensor] = []
    assert largest_allocation(lambda: found.append(optimizer.metrics()["sparsity"])) <= COUNTED_AT_ONCE
    assert float(found[0]) == pytest.approx((SIDE * SIDE / 5 + 1) / SIDE**2, rel=1e-7)


def test_of_tensors_that_cannot_be_cut_evenly() -> None:
    params = [torch.nn.Parameter(torch.zeros(shape)) for shape in ((), (0, 3), (7,), (3, COUNTED_AT_ONCE + 1), (1, 1))]
    assert float(torchclip.SGD(params, lr=0.1).metrics()["sparsity"]) == 1.0


def test_the_memory_that_a_steered_step_takes(emulator: Emulator) -> None:
    param = torch.nn.Parameter(torch.zeros(2 * COUNTED_AT_ONCE))
    optimizer = torchclip.LinBreg([param], lr=0.1, lam=0.1, target_sparsity=0.5, backend="cuda")
    param.grad = torch.zeros_like(param)
    optimizer.step()
    param.detach().zero_()  # so that the next step counts
    assert largest_allocation(optimizer.step) <= COUNTED_AT_ONCE


def half_sparse(backend: str, target: float | None = None) -> tuple[torch.nn.Parameter, Any]:
    """A parameter of which the step that was taken has counted half as zeros, and every further one would."""
    param = torch.nn.Parameter(torch.tensor([0.0, 1.0, 2.0, 0.0]))
    optimizer = torchclip.GRDA([param], lr=0.1, c=1.0, target_sparsity=target, backend=backend)
    param.grad = torch.zeros(4)
    optimizer.step()
    assert float(optimizer.sparsity()) == 0.5
    return param, optimizer


TARGETS = pytest.mark.parametrize("target", [None, 0.5])


@TARGETS
def test_a_skipped_step_does_not_renew_a_count(target: float | None, backend: str) -> None:
    param, optimizer = half_sparse(backend, target)
    param.detach().fill_(1.0)
    optimizer.found_inf = torch.ones(())  # as a GradScaler sets it
    optimizer.step()
    assert float(optimizer.sparsity()) == 0.0
    optimizer.found_inf = torch.zeros(())
    optimizer.step()
    assert float(optimizer.sparsity()) == 0.5


@TARGETS
def test_a_captured_step_does_not_renew_a_count(target: float | None, emulator: Emulator) -> None:
    param, optimizer = half_sparse("cuda", target)
    param.detach().fill_(1.0)
    emulator.begin_capture()
    try:
        optimizer.step()
    finally:
        emulator.end_capture()
    assert float(optimizer.sparsity()) == 0.0
    emulator.replay()
    assert float(optimizer.sparsity()) == 0.5


def test_values_assigned_through_data_are_counted(backend: str) -> None:
    param, optimizer = half_sparse(backend)
    param.data = torch.ones(4)  # autograd's version is as it was
    assert float(optimizer.sparsity()) == 0.0
    optimizer.step()
    assert float(optimizer.sparsity()) == 0.5
    param.data = param.data * torch.tensor([0.0, 0.0, 1.0, 0.0])
    optimizer.found_inf = torch.ones(())
    optimizer.step()  # which is skipped
    assert float(optimizer.sparsity()) == 0.75
