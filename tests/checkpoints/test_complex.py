"""Checkpoints of optimizers over complex parameters: from torch, to torch, and of another precision."""

from __future__ import annotations

import copy
import math

import pytest
import torch

import torchclip
from builders import NAMESAKES, assert_same_params, copies_of, draw_gradients, each_namesake
from complex_pairs import TAKING, optimizer_of
from memory_guard import same_bits


def leaves(dtype: torch.dtype = torch.complex64) -> list[torch.nn.Parameter]:
    """Complex parameters, and a real one among them."""
    shapes = ((4, 5), (17,), ())
    complex_ones = [torch.nn.Parameter(torch.randn(shape, dtype=dtype)) for shape in shapes]
    return [*complex_ones, torch.nn.Parameter(torch.randn(3))]


def draw(step: int, *sets: list[torch.nn.Parameter]) -> None:
    """New gradients, the same for every set."""
    draw_gradients(step, *sets)
    for group in sets:
        for p in group:
            if p.is_complex():
                p.grad = torch.complex(p.grad.real, p.grad.real.flip(tuple(range(p.ndim))))


def assert_go_on_alike(
    ours: torch.optim.Optimizer,
    params: list[torch.nn.Parameter],
    theirs: torch.optim.Optimizer,
    copies: list[torch.nn.Parameter],
) -> None:
    """After the third step."""
    for step in range(3, 6):
        draw(step, params, copies)
        ours.step()
        theirs.step()
        torch.testing.assert_close(params, copies, rtol=1e-5, atol=1e-5)


@each_namesake
def test_checkpoint_of_torch_loads_here(name: str, backend: str) -> None:
    cls, torch_cls, options = NAMESAKES[name]
    params = leaves()
    copies = copies_of(params)
    theirs = torch_cls(copies, **options, foreach=False)
    for step in range(3):
        draw(step, copies)
        theirs.step()
    for p, q in zip(params, copies):
        p.data.copy_(q.detach())
    ours = cls(params, lr=7.0, clip=math.inf, backend=backend)
    ours.load_state_dict(copy.deepcopy(theirs.state_dict()))
    assert_go_on_alike(ours, params, theirs, copies)


@each_namesake
def test_checkpoint_of_ours_loads_in_torch(name: str, backend: str) -> None:
    cls, torch_cls, options = NAMESAKES[name]
    params = leaves()
    ours = cls(params, **options, backend=backend)
    for step in range(3):
        draw(step, params)
        ours.step()
    copies = copies_of(params)
    theirs = torch_cls(copies, lr=7.0, foreach=False)
    theirs.load_state_dict(copy.deepcopy(ours.state_dict()))
    assert_go_on_alike(ours, params, theirs, copies)


@pytest.mark.parametrize("name", TAKING)
def test_a_run_goes_on_where_it_stopped(name: str, backend: str) -> None:
    extensions = (torchclip.GradientNoise(eta=0.1), torchclip.Lookahead(k=2))
    params = leaves()
    optimizer = optimizer_of(name, params, clip=2.0, extensions=extensions, seed=3, backend=backend)
    for step in range(3):
        draw(step, params)
        optimizer.step(loss=1.0)
    copies = copies_of(params)
    twin = optimizer_of(name, copies, clip=2.0, extensions=extensions, backend=backend)
    twin.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for step in range(3, 6):
        draw(step, params, copies)
        optimizer.step(loss=1.0)
        twin.step(loss=1.0)
    assert_same_params(params, copies)


def test_another_precision(backend: str) -> None:
    """torch leaves the state of a complex parameter in the type of the checkpoint; here it is cast."""
    params = leaves()
    extensions = (torchclip.Lookahead(k=2),)
    optimizer = torchclip.AdamW(params, lr=0.5, extensions=extensions, backend=backend)
    draw(0, params)
    optimizer.step()
    wide = leaves(torch.complex128)
    other = torchclip.AdamW(wide, lr=0.5, extensions=extensions, backend=backend)
    other.load_state_dict(optimizer.state_dict())
    for p, q in zip(params[:3], wide):
        for name in ("exp_avg", "exp_avg_sq", "slow"):
            assert same_bits(other.state[q][name], optimizer.state[p][name].to(torch.complex128))
    draw(1, wide)
    other.step()
