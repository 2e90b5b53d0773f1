"""The reference path's look at ordinary tensors: whatever a check refuses is not ordinary, and the check says why."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import torchclip
from torchclip.state.ordinary import are_ordinary

Spoil = Callable[[Tensor, dict[str, Any]], object]


def negative_view() -> Tensor:
    """[4, 5], whose memory holds the negatives of its elements."""
    return torch._neg_view(torch.ones(4, 5))


def made_in_inference_mode() -> Tensor:
    with torch.inference_mode():
        return torch.zeros(4, 5)


def set_data(p: Tensor, value: Tensor) -> None:
    p.data = value


def set_gradient(p: Tensor, value: Tensor) -> None:
    p.grad = value


SPOILED: dict[str, tuple[Spoil, str]] = {
    "sparse_gradient": (lambda p, _: set_gradient(p, torch.zeros(4, 5).to_sparse()), "sparse gradient"),
    "cast_parameter": (lambda p, _: set_data(p, p.data.double()), "gradient of dtype"),
    "cut_parameter": (lambda p, _: set_data(p, p.data[:3].clone()), "gradient of shape"),
    "negated_parameter": (lambda p, _: set_data(p, negative_view()), "lazily negated"),
    "negated_gradient": (lambda p, _: set_gradient(p, negative_view()), "lazily negated"),
    "expanded_parameter": (lambda p, _: set_data(p, torch.zeros(1, 5).expand(4, 5)), "expanded"),
    "expanded_state": (lambda _, s: s.update(exp_avg=torch.zeros(1, 5).expand(4, 5)), "expanded"),
    "negated_state": (lambda _, s: s.update(exp_avg_sq=negative_view()), "lazily negated"),
    "cut_state": (lambda _, s: s.update(exp_avg=torch.zeros(3, 5)), r"is of shape \(3, 5\) where"),
    "cast_state": (lambda _, s: s.update(exp_avg=torch.zeros(4, 5).half()), "is torch.float16 where"),
    "moved_state": (lambda _, s: s.update(exp_avg=torch.zeros(4, 5, device="meta")), "on meta"),
    "state_of_numbers": (lambda _, s: s.update(exp_avg=0.0), "a tensor is wanted"),
    "some_state": (lambda _, s: s.pop("exp_avg"), "lacks"),
    "no_step": (lambda _, s: s.pop("step"), "lacks"),
    "two_steps": (lambda _, s: s.update(step=torch.zeros(2)), "shape"),
    "sparse_step": (lambda _, s: s.update(step=torch.zeros(1).to_sparse()), "layout"),
    "half_a_step": (lambda _, s: s.update(step=torch.tensor(0.5, dtype=torch.float16)), "whole number"),
    "state_of_inference": (lambda _, s: s.update(exp_avg=made_in_inference_mode()), "inference mode"),
    "own_of_inference": (lambda _, s: s.update(own=made_in_inference_mode()), "inference mode"),
}


@pytest.mark.parametrize("spoil, message", SPOILED.values(), ids=SPOILED)
def test_what_a_check_refuses_is_not_ordinary(spoil: Spoil, message: str) -> None:
    p = torch.nn.Parameter(torch.randn(4, 5))
    p.grad = torch.randn(4, 5)
    optimizer = torchclip.AdamW([p], backend="reference")
    optimizer.step()
    assert are_ordinary(optimizer.spec, optimizer.param_groups, optimizer.state)
    spoil(p, optimizer.state[p])
    with pytest.raises((RuntimeError, TypeError, ValueError), match=message):
        optimizer.step()


REPLACED: dict[str, tuple[Callable[[], Tensor], str]] = {
    "inference": (made_in_inference_mode, "inference mode"),
    "sparse": (lambda: torch.zeros(4, 5).to_sparse_csr(), "is sparse"),
}


@pytest.mark.parametrize("make, message", REPLACED.values(), ids=REPLACED)
def test_another_parameter_in_the_group_is_not_ordinary(make: Callable[[], Tensor], message: str) -> None:
    p = torch.nn.Parameter(torch.randn(4, 5))
    p.grad = torch.randn(4, 5)
    optimizer = torchclip.AdamW([p], backend="reference")
    optimizer.step()
    made = torch.nn.Parameter(make(), requires_grad=False)
    made.grad = make() if made.layout is not torch.strided else torch.randn(4, 5)
    optimizer.param_groups[0]["params"][0] = made
    optimizer.state[made] = optimizer.state.pop(p)
    with pytest.raises((RuntimeError, TypeError), match=message):
        optimizer.step()


def test_state_that_is_no_dict_is_not_ordinary() -> None:
    p = torch.nn.Parameter(torch.randn(4, 5))
    p.grad = torch.randn(4, 5)
    optimizer = torchclip.AdamW([p], backend="reference")
    optimizer.step()
    optimizer.state[p] = [optimizer.state[p]]  # type: ignore[assignment]
    with pytest.raises(TypeError, match="a dict is wanted"):
        optimizer.step()


def test_complex_parameters_of_a_rule_that_takes_none_are_not_ordinary() -> None:
    p = torch.nn.Parameter(torch.randn(4, 5))
    p.grad = torch.randn(4, 5)
    optimizer = torchclip.GRDA([p], lr=0.1, backend="reference")
    optimizer.step()
    assert are_ordinary(optimizer.spec, optimizer.param_groups, optimizer.state)
    state = optimizer.state[p]
    p.data, p.grad = p.data.to(torch.complex64), p.grad.to(torch.complex64)
    state.update({name: value.to(torch.complex64) for name, value in state.items() if value.shape == p.shape})
    with pytest.raises(TypeError, match="take complex parameters"):
        optimizer.step()
