"""``torch.set_default_dtype`` and ``torch.set_default_device``: state has torch's types, and nothing strays."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

import torchclip
from builders import (
    LOSS,
    NAMESAKES,
    OPTIMIZERS,
    assert_same_params,
    build,
    copies_of,
    draw_gradients,
    each_namesake,
    each_optimizer,
    leaves,
)
from memory_guard import same_bits


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def types_of(state: dict[str, Any]) -> dict[str, torch.dtype]:
    return {key: value.dtype for key, value in state.items() if value is not None}


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@each_namesake
def test_state_has_torchs_types_under_any_default(name: str, dtype: torch.dtype, backend: str) -> None:
    """Numbers of state are float64 where that is the default; tensors have the type of their parameter."""
    cls, torch_cls, options = NAMESAKES[name]
    params = leaves()
    copies = copies_of(params)
    with default_dtype(dtype):
        ours, theirs = cls(params, **options, backend=backend), torch_cls(copies, **options)
        for _ in range(3):
            for p, q in zip(params, copies):
                p.grad = torch.randn(p.shape, dtype=p.dtype)
                q.grad = p.grad.clone()
            ours.step()
            theirs.step()
        loaded = cls(copies_of(params), **options, backend=backend)
        loaded.load_state_dict(copy.deepcopy(theirs.state_dict()))
    for p, q, r in zip(params, copies, loaded.param_groups[0]["params"]):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-5)
        assert types_of(ours.state[p]) == types_of(loaded.state[r]) == types_of(theirs.state[q])


@each_optimizer
def test_a_checkpoint_goes_on_under_another_default(name: str, backend: str) -> None:
    params = leaves()
    with default_dtype(torch.float64):
        optimizer = build(name, params, backend=backend)
        draw = [torch.randn(p.shape, dtype=p.dtype) for p in params]
        for p, grad in zip(params, draw):
            p.grad = grad
        optimizer.step(loss=LOSS)
    copies = copies_of(params)
    loaded = build(name, copies, backend=backend)
    loaded.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for step in range(2):
        draw_gradients(step, params, copies)
        optimizer.step(loss=LOSS)
        loaded.step(loss=LOSS)
    assert_same_params(params, copies)
    for p, q in zip(params, copies):
        assert optimizer.state[p].keys() == loaded.state[q].keys()
        assert all(same_bits(value, loaded.state[q][key]) for key, value in optimizer.state[p].items())


MODIFIED: dict[str, Any] = {
    "clip": torchclip.ZClip(warmup_steps=2),
    "step_size": torchclip.AdaLossStep(),
    "extensions": (torchclip.GradientNoise(), torchclip.GradientDropout(0.1)),
    "seed": 3,
}


@pytest.mark.parametrize("modified", [False, True], ids=["plain", "modified"])
@each_optimizer
def test_a_default_device_draws_nothing_there(name: str, modified: bool, backend: str) -> None:
    """With "meta" as the default device, a tensor that is made without a device would lose its values."""
    options = {**MODIFIED} if modified else {}
    if OPTIMIZERS[name][0] is torchclip.AdaLoss:
        options.pop("step_size", None)  # it has one of its own
    params = leaves()
    copies = copies_of(params)
    plain = build(name, copies, **options, backend=backend)
    torch.set_default_device("meta")
    try:
        optimizer = build(name, params, **options, backend=backend)
        for _ in range(2):
            optimizer.step(loss=LOSS)
            optimizer.load_state_dict(optimizer.state_dict())
        metrics = optimizer.metrics()
        norm = torchclip.clip_grad_norm_(params, 1e9)
        total = torchclip.get_total_norm([p.grad for p in params])
    finally:
        torch.set_default_device(None)
    for _ in range(2):
        plain.step(loss=LOSS)
        plain.load_state_dict(plain.state_dict())
    assert_same_params(params, copies)
    # What was measured before loading is forgotten, the norms that a gradient has are not.
    assert float(metrics["sparsity"]) == float(plain.metrics()["sparsity"])
    assert float(norm) == float(total) == float(torchclip.get_total_norm([p.grad for p in copies]))
    optimizer.step(loss=LOSS)
    assert all(value.device.type == "cpu" for value in optimizer.metrics().values())


@each_optimizer
def test_what_was_measured_lies_with_the_parameters(name: str, backend: str) -> None:
    optimizer = build(name, leaves(), clip=1.0, backend=backend)
    torch.set_default_device("meta")
    try:
        optimizer.step(loss=LOSS)
        measured = {**optimizer.metrics(), "norm": optimizer.grad_norm, "factor": optimizer.clip_factor}
    finally:
        torch.set_default_device(None)
    assert {key: value.device.type for key, value in measured.items()} == dict.fromkeys(measured, "cpu")
    assert 0 < float(measured["factor"]) < 1 < float(measured["norm"])
