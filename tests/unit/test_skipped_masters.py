"""Masters that skipped steps alone have seen: they follow what is written to their parameters until a step is taken.

On GPUs the host does not know which steps were skipped, and what was made for a first one stays.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

import torchclip
from memory_guard import same_bits
from records import BACKENDS
from torchclip import ClipByGlobalNorm, MasterWeights

pytestmark = pytest.mark.parametrize("backend", BACKENDS, indirect=True)

RULES: dict[str, tuple[type[torchclip.FusedOptimizer], dict[str, Any]]] = {
    "adamw": (torchclip.AdamW, {}),
    "damped": (torchclip.SGD, {"momentum": 0.9, "dampening": 0.5}),
    "without_state": (torchclip.SGD, {}),
    "clips_itself": (torchclip.NormalizedSGD, {"momentum": 0.9}),
    "skips": (torchclip.SGD, {"momentum": 0.9, "clip": ClipByGlobalNorm(1e9, nonfinite="skip")}),
}
each_rule = pytest.mark.parametrize("rule", RULES)

VALUE = torch.tensor([0.1, -0.7, 3.3])
"""Which bfloat16 does not hold."""


def made(rule: str, backend: str) -> tuple[torchclip.FusedOptimizer, torch.nn.Parameter]:
    cls, options = RULES[rule]
    weight = torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    weight.grad = torch.tensor([1.0, 0.5, -0.25], dtype=torch.bfloat16)
    return cls([weight], lr=2.0**-10, precision=MasterWeights(), backend=backend, **options), weight


def take(optimizer: torchclip.FusedOptimizer, weight: torch.nn.Parameter, *, skips: bool = False) -> None:
    """A step; one that is skipped is as a GradScaler has it, or where the norm is not finite."""
    before = weight.grad
    if optimizer.clip is not None and skips:
        weight.grad = torch.full_like(weight, torch.inf)
    elif skips:
        optimizer.grad_scale, optimizer.found_inf = torch.tensor(1.0), torch.tensor(1.0)
    optimizer.step()
    weight.grad, optimizer.grad_scale, optimizer.found_inf = before, None, None


def write(weight: torch.nn.Parameter, value: torch.Tensor) -> None:
    with torch.no_grad():
        weight.copy_(value)


def assert_alike(*each: tuple[torchclip.FusedOptimizer, torch.nn.Parameter]) -> None:
    (ours, weight), (theirs, other) = each
    assert same_bits(weight, other)
    assert same_bits(*(one.float32_parameters()[0] for one in (ours, theirs)))


@each_rule
def test_weights_that_are_loaded_before_any_step_is_taken(rule: str, backend: str) -> None:
    optimizer, weight = made(rule, backend)
    expected, other = made(rule, backend)
    for value in (VALUE, 2 * VALUE):
        take(optimizer, weight, skips=True)
        write(weight, value)
        assert same_bits(optimizer.float32_parameters()[0], weight.detach().float())
    write(other, 2 * VALUE)
    for _ in range(2):
        take(optimizer, weight)
        take(expected, other)
        assert_alike((optimizer, weight), (expected, other))


@each_rule
def test_a_master_stays_once_a_step_is_taken(rule: str, backend: str) -> None:
    """Whatever is written to its parameter, and though later steps are skipped."""
    optimizer, weight = made(rule, backend)
    expected, other = made(rule, backend)
    take(optimizer, weight, skips=True)
    for one, own in ((optimizer, weight), (expected, other)):
        take(one, own)
    take(optimizer, weight, skips=True)
    write(weight, VALUE)
    assert same_bits(optimizer.float32_parameters()[0], expected.float32_parameters()[0])
    for one, own in ((optimizer, weight), (expected, other)):
        take(one, own)
    assert_alike((optimizer, weight), (expected, other))


@each_rule
def test_float32_values_that_are_loaded_keep_their_bits(rule: str, backend: str) -> None:
    """In the steps, and in a checkpoint that is saved before any is taken."""
    optimizer, weight = made(rule, backend)
    expected, other = made(rule, backend)
    take(optimizer, weight, skips=True)
    for one in (optimizer, expected):
        one.load_float32_parameters([VALUE])
    loaded, third = made(rule, backend)
    loaded.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    write(third, weight.detach())
    assert same_bits(optimizer.float32_parameters()[0], VALUE)
    for one, own in ((optimizer, weight), (expected, other), (loaded, third)):
        take(one, own)
    assert_alike((optimizer, weight), (expected, other))
    assert_alike((loaded, third), (expected, other))


def test_a_checkpoint_of_weights_that_are_loaded_before(backend: str) -> None:
    optimizer, weight = made("adamw", backend)
    expected, other = made("adamw", backend)
    take(optimizer, weight, skips=True)
    for each in (weight, other):
        write(each, VALUE)
    loaded, third = made("adamw", backend)
    loaded.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    write(third, weight.detach())
    for one, own in ((loaded, third), (expected, other)):
        take(one, own)
    assert_alike((loaded, third), (expected, other))


def test_another_plan_in_between(backend: str) -> None:
    optimizer, weight = made("damped", backend)
    expected, other = made("damped", backend)
    take(optimizer, weight, skips=True)
    for one in (optimizer, expected):
        one.add_param_group({"params": [torch.nn.Parameter(torch.ones(2, dtype=torch.bfloat16))]})
    for each in (weight, other):
        write(each, VALUE)
    for one, own in ((optimizer, weight), (expected, other)):
        take(one, own)
    assert_alike((optimizer, weight), (expected, other))
