"""What can be read after a step: grad_norm, clip_factor, sparsity."""

from __future__ import annotations

import inspect
import math
from typing import Any

import pytest
import torch
from torch import Tensor

import torchclip
from builders import (
    OPTIMIZERS,
    assert_same_params,
    build,
    draw_gradients,
    leaves,
)


def joint_norm(tensors: list[Tensor]) -> float:
    """In float64."""
    return math.sqrt(sum(float(t.double().square().sum()) for t in tensors))


def two_groups(gradients: list[Tensor | None]) -> tuple[list[torch.nn.Parameter], list[dict[str, Any]]]:
    """Parameters with these gradients; the first alone in its group."""
    params = [torch.nn.Parameter(torch.ones(6)) for _ in gradients]
    for p, g in zip(params, gradients):
        p.grad = g
    return params, [{"params": params[:1]}, {"params": params[1:]}]


GRADIENTS = (torch.full((6,), 3.0), torch.full((6,), -4.0), None)
NORMS = {
    "optimizer": [joint_norm([GRADIENTS[0], GRADIENTS[1]])],
    "group": [joint_norm([GRADIENTS[0]]), joint_norm([GRADIENTS[1]])],
    "tensor": [joint_norm([GRADIENTS[0]]), joint_norm([GRADIENTS[1]]), 0.0],
}


def report(optimizer: torch.optim.Optimizer, scope: str) -> tuple[list[float], list[float]]:
    """grad_norm and clip_factor as lists, with the promised shape."""
    values = (optimizer.grad_norm, optimizer.clip_factor)
    shape = {"optimizer": (), "group": (2,), "tensor": (3,)}[scope]
    assert all(tuple(value.shape) == shape and value.is_floating_point() for value in values)
    return tuple(value.double().reshape(-1).tolist() for value in values)


@pytest.mark.parametrize("smooth", [False, True], ids=["hard", "smooth"])
@pytest.mark.parametrize("scope", NORMS)
@pytest.mark.parametrize("cls", [torchclip.SGD, torchclip.AdamW, torchclip.GRDA], ids=lambda cls: cls.__name__)
def test_reports_of_a_policy(cls: type[torch.optim.Optimizer], scope: str, smooth: bool, backend: str) -> None:
    bound = 8.0
    policy = (
        torchclip.ClipByTensorNorm(bound, smooth=smooth)
        if scope == "tensor"
        else torchclip.ClipByGlobalNorm(bound, smooth=smooth, scope=scope)
    )
    params, groups = two_groups(list(GRADIENTS))
    optimizer = cls(groups, lr=0.1, clip=policy, backend=backend)
    optimizer.step()
    norms, factors = report(optimizer, scope)
    assert norms == pytest.approx(NORMS[scope], rel=1e-6)
    hard = [min(1.0, bound / (norm + 1e-6)) for norm in NORMS[scope]]
    assert factors == pytest.approx([1 / (1 + n / bound) for n in NORMS[scope]] if smooth else hard, rel=1e-6)
    if cls is torchclip.SGD:
        per_param = {"optimizer": factors * 2, "group": factors, "tensor": factors[:2]}[scope]
        for p, gradient, factor in zip(params, GRADIENTS, per_param):
            torch.testing.assert_close(p.detach(), 1 - 0.1 * factor * gradient)


@pytest.mark.parametrize("max_norm", [0.0, 1e-9])
def test_a_bound_of_nearly_nothing(max_norm: float, backend: str) -> None:
    params, groups = two_groups(list(GRADIENTS))
    optimizer = torchclip.SGD(groups, lr=0.1, clip=torchclip.ClipByTensorNorm(max_norm), backend=backend)
    optimizer.step()
    norms, factors = report(optimizer, "tensor")
    assert factors[:2] == pytest.approx([max_norm / n for n in norms[:2]], rel=1e-6)
    assert factors[2] == 1.0, "a parameter without gradient has factor 1"
    torch.testing.assert_close(params[0].detach(), torch.ones(6))


@pytest.mark.parametrize("scope", NORMS)
@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_reports_of_rules_that_clip_themselves(scope: str, decay: float, backend: str) -> None:
    """grad_norm is that of g as the rule sees it, decay included; clip_factor is h(norm of m) / lr."""
    lr, gamma, momentum, eps = 0.5, 2.0, 0.75, 0.25
    seen = [None if g is None else g + decay for g in GRADIENTS]
    norms = {
        "optimizer": [joint_norm([seen[0], seen[1]])],
        "group": [joint_norm([seen[0]]), joint_norm([seen[1]])],
        "tensor": [joint_norm([seen[0]]), joint_norm([seen[1]]), 0.0],
    }[scope]
    of_m = [(1 - momentum) * norm for norm in norms]
    shared = {"lr": lr, "momentum": momentum, "weight_decay": decay, "scope": scope, "backend": backend}
    soft = [1 / (1 + lr * r / gamma) for r in of_m]
    hard = [1.0 if r == 0 else min(1.0, gamma / r / lr) for r in of_m]
    # A parameter without a gradient has factor 1 whatever the rule makes of a norm of 0.
    unit = [1 / (r + eps) if norm else 1.0 for r, norm in zip(of_m, norms)]
    for cls, options, factors in (
        (torchclip.MixClip, {"gamma": gamma}, soft),
        (torchclip.MixClip, {"gamma": gamma, "smooth": False}, hard),
        (torchclip.MomClip, {"gamma": gamma}, soft),
        (torchclip.SGDClip, {"gamma": gamma}, hard),
        (torchclip.NormalizedSGD, {"eps": eps}, unit),
    ):
        optimizer = cls(two_groups(list(GRADIENTS))[1], **options, **shared)
        optimizer.step()
        measured, reported = report(optimizer, scope)
        assert measured == pytest.approx(norms, rel=1e-6), cls.__name__
        assert reported == pytest.approx(factors, rel=1e-6), cls.__name__


def test_a_policy_on_a_rule_that_clips_itself_reports_the_policy(backend: str) -> None:
    params, groups = two_groups(list(GRADIENTS))
    optimizer = torchclip.SGDClip(groups, lr=1.0, gamma=0.5, clip=6.0, backend=backend)
    optimizer.step()
    norm = NORMS["optimizer"][0]
    assert report(optimizer, "optimizer")[0] == pytest.approx([norm])
    assert report(optimizer, "optimizer")[1] == pytest.approx([6.0 / (norm + 1e-6)])
    # The clipped gradient has norm 6; SGDClip brings the step down to gamma.
    torch.testing.assert_close(params[0].detach(), 1 - 0.5 * GRADIENTS[0] / norm)


def test_zero_gradients_are_a_zero_step(backend: str) -> None:
    """The original SGDClip divides by zero."""
    for name in ("normalized_sgd", "sgd_clip", "mom_clip", "mix_clip"):
        for options in ({}, {"momentum": 0.0}, {"smooth": False}, {"eps": 0.0}):
            if set(options) <= set(inspect.signature(OPTIMIZERS[name][0]).parameters):
                params = leaves()
                before = [p.detach().clone() for p in params]
                for p in params:
                    p.grad.zero_()
                optimizer = build(name, params, **options, backend=backend)
                optimizer.step()
                assert_same_params(params, before)
                assert optimizer.grad_norm == 0 and optimizer.clip_factor.isfinite()


def test_reports_are_kept_apart(backend: str) -> None:
    """A report belongs to its step: a later step does not write into it."""
    params = leaves()
    optimizer = torchclip.SGD(params, lr=0.1, clip=1.0, backend=backend)
    optimizer.step()
    first = optimizer.grad_norm
    value = float(first)
    for p in params:
        p.grad = p.grad * 3
    optimizer.step()
    assert float(first) == value
    assert float(optimizer.grad_norm) == pytest.approx(3 * value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_sparsity(dtype: torch.dtype, backend: str) -> None:
    params = [torch.nn.Parameter(torch.randn(n).to(dtype)) for n in (5000, 3, 0)]
    params.append(torch.nn.Parameter(torch.randn(30, 40).to(dtype)[:, ::2]))
    optimizer = torchclip.GRDA(params, lr=0.1, c=1.0, backend=backend)
    for step in range(4):
        draw_gradients(step, params)
        if step % 2:
            params[0].grad = None  # it still counts
        optimizer.step()
        zeros = sum(int((p == 0).sum()) for p in params)
        total = sum(p.numel() for p in params)
        sparsity = optimizer.sparsity()
        assert sparsity.shape == () and sparsity.is_floating_point()
        assert float(sparsity) == pytest.approx(zeros / total, rel=1e-6)
    assert 0.05 < float(sparsity) < 0.95


def test_sparsity_before_the_first_step_and_after_others_wrote(backend: str) -> None:
    params = [torch.nn.Parameter(torch.tensor([0.0, 1.0, 2.0, 0.0]))]
    optimizer = torchclip.GRDA(params, lr=0.1, c=1.0, backend=backend)
    assert float(optimizer.sparsity()) == 0.5
    params[0].grad = torch.zeros(4)
    optimizer.step()
    assert float(optimizer.sparsity()) == 0.5
    with torch.no_grad():
        params[0].zero_()  # a checkpoint of the model, say
    assert float(optimizer.sparsity()) == 1.0


def test_a_step_that_raised_was_left_out(backend: str) -> None:
    params = leaves(1)
    optimizer = torchclip.SGD(params, lr=0.1, clip=torchclip.ClipByGlobalNorm(1.0, nonfinite="error"), backend=backend)
    optimizer.step()
    assert not optimizer.step_was_skipped
    params[0].grad[0, 0] = math.nan
    with pytest.raises(RuntimeError, match="the gradient norm is not finite"):
        optimizer.step()
    assert optimizer.step_was_skipped
