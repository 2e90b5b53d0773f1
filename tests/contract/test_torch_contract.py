"""What torch's tests ask of each of its optimizers, asked of each of ours."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import lr_scheduler as schedulers

import torchclip
from builders import (
    LOSS,
    OPTIMIZERS,
    SPARSE,
    assert_same_params,
    build,
    copies_of,
    draw_gradients,
    each_optimizer,
    fresh,
    leaves,
)
from memory_guard import same_bits
from torchs_optimizers import info_of

LR = 0.5
"""With which a kernel that writes nothing is noticed in every type."""

STEADY: dict[str, dict[str, Any]] = {"sgd": {"lr": 0.01}, "sgdw": {"lr": 0.01}, "grda": {"lr": 0.01}}
"""The rates at which the rules whose step is as large as the gradient go down without leaping over the minimum."""

Schedules = list[Callable[[torch.optim.Optimizer], Any]]


def schedules_of(cls: type[torch.optim.Optimizer]) -> list[Schedules]:
    """The schedulers that torch runs with the class of this name, or else with those that it has no other ones for."""
    return [[], *info_of(cls.__name__, otherwise="RMSprop").scheduler_inputs]


def linear_problem(contiguous: bool) -> tuple[list[torch.nn.Parameter], Callable[[], Tensor]]:
    """A weight and a bias, and the loss to bring down, which writes their gradients."""
    weight = torch.randn(10, 5) if contiguous else torch.randn(10, 5, 2)[..., 0]
    params = [torch.nn.Parameter(weight), torch.nn.Parameter(torch.randn(10))]
    given = torch.randn(5)
    assert params[0].is_contiguous() == contiguous

    def closure() -> Tensor:
        for param in params:
            param.grad = None
        loss = (params[0].mv(given) + params[1]).square().sum()
        loss.backward()
        return loss

    return params, closure


@pytest.mark.xdist_group("torchs_optimizers")
@pytest.mark.parametrize("contiguous", [True, False], ids=["contiguous", "strided"])
@each_optimizer
def test_goes_in_the_right_direction_under_schedulers(name: str, contiguous: bool, backend: str) -> None:
    for schedules in schedules_of(OPTIMIZERS[name][0]):
        params, closure = linear_problem(contiguous)
        groups = [{"params": params[:1]}, {"params": params[1:], "lr": 0.01}]
        optimizer = build(name, groups, **STEADY.get(name, {}), backend=backend)
        made = [schedule(optimizer) for schedule in schedules]
        before = closure().item()
        for _ in range(20):
            loss = optimizer.step(closure)
            for scheduler in made:
                if isinstance(scheduler, schedulers.ReduceLROnPlateau):
                    scheduler.step(loss.detach())
                else:
                    scheduler.step()
        assert closure().item() < 0.95 * before


@each_optimizer
def test_maximize_goes_the_other_way(name: str, backend: str) -> None:
    if "maximize" not in inspect.signature(OPTIMIZERS[name][0]).parameters:
        pytest.skip("rules that set their parameters anew have no maximize")
    params, closure = linear_problem(contiguous=True)
    optimizer = build(name, params, maximize=True, backend=backend)
    before = closure().item()
    for _ in range(5):
        optimizer.step(closure)
    assert closure().item() > 1.05 * before


@each_optimizer
def test_zero_gradients_move_nothing(name: str, backend: str) -> None:
    options = {"weight_decay": 0.0} if name in ("sgdw", "adamw", "radamw") else {}
    options |= {"grda": {"c": 0.0}, "lin_breg": {"lam": 0.0}, "ada_breg": {"lam": 0.0}}.get(name, {})
    params = leaves()
    before = [param.detach().clone() for param in params]
    for param in params:
        param.grad = torch.zeros_like(param)
    optimizer = build(name, params, **options, clip=1.0, backend=backend)
    for _ in range(2):
        optimizer.step(loss=LOSS)
    assert all(map(torch.equal, params, before))


@each_optimizer
def test_gradients_are_never_written(name: str, backend: str) -> None:
    params = leaves()
    params[0].grad = torch.randn(5, 4).t()
    kept = [param.grad for param in params]
    values = [grad.clone() for grad in kept]
    optimizer = build(name, params, clip=0.5, lr=LR, backend=backend)
    for _ in range(3):
        optimizer.step(loss=LOSS)
    for param, grad, value in zip(params, kept, values):
        assert param.grad is grad and grad._version == 0 and same_bits(grad, value)


@each_optimizer
def test_empty_parameters(name: str, backend: str) -> None:
    """Alone, and beside others, whose step they leave as it is."""
    for clip in (None, 1.0, torchclip.ClipByTensorNorm(1.0), torchclip.AutoClip(), torchclip.AdaptiveGradientClip()):
        params = leaves()
        copies = copies_of(params)
        empty = [torch.nn.Parameter(torch.empty(shape)) for shape in ((0,), (3, 0))]
        alone = [torch.nn.Parameter(torch.empty(shape)) for shape in ((0,), (3, 0))]
        for param in (*empty, *alone):
            param.grad = torch.empty_like(param)
        options = {"clip": clip, "lr": LR, "backend": backend}
        between = build(name, [empty[0], *params[:2], empty[1], *params[2:]], **options)
        without, only = build(name, copies, **options), build(name, alone, **options)
        for _ in range(2):
            for optimizer in (between, without, only):
                optimizer.step(loss=LOSS)
        torch.testing.assert_close(params, copies)
        assert only.metrics()["sparsity"] == 0
        only.load_state_dict(only.state_dict())
        only.step(loss=LOSS)


@each_optimizer
def test_param_groups_have_their_own_learning_rate_and_decay(name: str, backend: str) -> None:
    """As two optimizers would do it; one whose norm spans the groups is measured over them alike."""
    if name in ("normalized_sgd", "sgd_clip", "mom_clip", "mix_clip", "ada_grad_norm"):
        pytest.skip("its step depends on the other group's gradients; tests of conformance have two groups")
    first, second = leaves(2), leaves(2)
    copies, others = copies_of(first), copies_of(second)
    mine = {"lr": 0.25} if name in SPARSE else {"lr": 0.25, "weight_decay": 0.5}
    both = build(name, [{"params": first}, {"params": second, **mine}], backend=backend)
    apart = [build(name, copies, backend=backend), build(name, others, **mine, backend=backend)]
    for step in range(3):
        draw_gradients(step, first, copies)
        draw_gradients(step + 10, second, others)
        for optimizer in (both, *apart):
            optimizer.step(loss=LOSS)
    assert_same_params([*first, *second], [*copies, *others])
    untouched = build(name, leaves(2), backend=backend)
    assert both.param_groups[0]["lr"] == untouched.param_groups[0]["lr"] != 0.25


@each_optimizer
def test_deepcopy_has_all_public_attributes(name: str, backend: str) -> None:
    def public(optimizer: torch.optim.Optimizer) -> set[str]:
        return {key for key in vars(optimizer) if not key.startswith("_")}

    optimizer = build(name, leaves(), backend=backend)
    for _ in range(2):
        assert public(copy.deepcopy(optimizer)) == public(optimizer) >= {"state", "param_groups", "defaults"}
        optimizer.step(loss=LOSS)


@each_optimizer
def test_state_is_not_empty_and_of_torchs_types(name: str, backend: str) -> None:
    """What holds one number for each element has the parameter's shape, device and layout; numbers are float."""
    params = [*fresh(1), torch.nn.Parameter(torch.randn(5, 4).t())]
    params[1].grad = torch.randn_like(params[1])
    options = {"momentum": 0.9} if name == "sgd_clip" else {}
    optimizer = build(name, params, **options, backend=backend)
    optimizer.step(loss=LOSS)
    for param in params:
        assert optimizer.state[param]
        for key, value in optimizer.state[param].items():
            assert isinstance(value, Tensor) and value.is_floating_point() and not value.requires_grad, key
            if value.dim() and "row" not in name:
                assert value.shape == param.shape and value.stride() == param.stride() and value.dtype == param.dtype
