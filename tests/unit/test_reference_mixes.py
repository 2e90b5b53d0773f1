"""AdaGradNorm in every scope, and policies, step sizes and extensions in a mix, on the reference path."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import torchclip
from paper_forms import (
    EVERY_POLICY,
    LR,
    SHAPES,
    STEPS,
    Arrays,
    PlainSGD,
    assert_same,
    give,
    gradients,
    joint_norm,
    parameters,
    sgd,
    shared_of,
    values,
)
from torchclip.backends.reference import step as reference_step
from torchclip.backends.reference.draws import Draws
from torchclip.policies.clip import AdaptiveGradientClip, AutoClip, ClipByValue, Scope, ZClip
from torchclip.policies.extensions import GradientDropout, GradientNoise, Lookahead, LRDropout
from torchclip.policies.modifiers import SLOW, Modifiers
from torchclip.policies.step_size import AdaLossStep, SqrtDecay
from torchclip.rules.momentum import adagrad_norm
from torchclip.state.group_state import complete_shared

SCOPES = {
    Scope.OPTIMIZER: [[0, 1, 2, 3]],
    Scope.GROUP: [[0, 1], [2, 3]],
    Scope.TENSOR: [[0], [1], [2], [3]],
}


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("scope", Scope, ids=lambda scope: scope.value)
def test_adagrad_norm_by_its_formula(scope: Scope, momentum: float) -> None:
    params, plain, averages = parameters(), values(1), [np.zeros(shape) for shape in SHAPES]
    groups = [{"params": params[:2]}, {"params": params[2:], "lr": 0.05}]
    options = {"lr": LR, "b0": 0.5, "momentum": momentum, "weight_decay": 0.1, "backend": "reference"}
    optimizer = torchclip.AdaGradNorm(groups, scope=scope, **options)
    sums = [0.25] * len(SCOPES.get(scope, SHAPES))
    for step in range(1, STEPS + 1):
        give(params, gradients(step))
        optimizer.step()
        grads = [None if g is None else g + 0.1 * p for p, g in zip(plain, gradients(step), strict=True)]
        for i, members in enumerate(SCOPES.get(scope, [[0], [1], [2], [3]])):
            present = [grads[member] for member in members if grads[member] is not None]
            if scope is Scope.ROW and present:  # below two dimensions each element for itself
                axes = tuple(range(1, present[0].ndim)) if present[0].ndim > 1 else ()
                sums[i] = sums[i] + (present[0] ** 2).sum(axis=axes, keepdims=True)
            else:
                sums[i] = sums[i] + sum((grad**2).sum() for grad in present)
            for member in [member for member in members if grads[member] is not None]:
                averages[member] = momentum * averages[member] + (1 - momentum) * grads[member]
                root = np.sqrt(sums[i]) + (1e-10 if scope is Scope.ROW else 0)
                plain[member] = plain[member] - (LR if member < 2 else 0.05) * averages[member] / root
        check_adagrad_norm_report(optimizer, scope, grads, averages, sums)
    assert_same(params, plain)
    held = [optimizer.state[param].get("sum") for param in params]
    if scope in (Scope.OPTIMIZER, Scope.GROUP):
        assert held == [None] * 4
        held = [group["shared"]["sum"] for group in optimizer.param_groups if "shared" in group]
    assert_same(held, [np.asarray(total) for total in sums])


def check_adagrad_norm_report(optimizer: Any, scope: Scope, grads: Arrays, averages: Arrays, sums: Arrays) -> None:
    moved = [None if grad is None else average for grad, average in zip(grads, averages, strict=True)]
    parts = SCOPES[Scope.OPTIMIZER if scope is Scope.ROW else scope]
    norms, directions = ([joint_norm([arrays[i] for i in part]) for part in parts] for arrays in (grads, moved))
    factors = (
        [1 / math.sqrt(s) if norm > 0 else 1.0 for s, norm in zip(sums, norms)] if scope is not Scope.ROW else [1.0]
    )
    measured = optimizer.metrics()
    for name, expected in (("grad_norm", norms), ("direction_norm", directions), ("clip_factor", factors)):
        one_for_all = scope in (Scope.OPTIMIZER, Scope.ROW)
        assert measured[name].shape == (() if one_for_all else (len(parts),))
        np.testing.assert_allclose(measured[name].numpy().reshape(-1), expected, 1e-12)


def test_adagrad_norm_over_rows_keeps_float32_beside_bfloat16() -> None:
    params = parameters(torch.bfloat16)
    optimizer = torchclip.AdaGradNorm(params, scope="row", clip=AdaptiveGradientClip(0.5), backend="reference")
    give(params, gradients(6))
    optimizer.step()
    for param in params:
        if param.grad is not None:
            total = optimizer.state[param]["sum"]
            assert total.dtype is torch.float32
            assert total.shape == (param.shape if param.ndim < 2 else (len(param), *[1] * (param.ndim - 1)))


EXTENSIONS = (GradientNoise(0.5, 0.7), GradientDropout(0.3), LRDropout(0.4), Lookahead(3, 0.6))


@pytest.mark.parametrize("decoupled", [False, True], ids=["coupled", "decoupled"])
def test_everything_at_once_in_its_order(decoupled: bool) -> None:
    """ClipByValue, SqrtDecay and all four extensions on SGD with momentum; the draws are tested in test_draws.py."""
    params, plain, slow, decay = parameters(), PlainSGD(), values(1), 0.2
    options = {"clip": ClipByValue(1.0), "step_size": SqrtDecay(2.0, 0.5), "extensions": EXTENSIONS, "seed": 5}
    optimizer = sgd(params, weight_decay=decay, decoupled_weight_decay=decoupled, **options)
    for step in range(1, STEPS + 1):
        give(params, gradients(step))
        optimizer.step()
        draws, sigma = Draws(5, step), math.sqrt(0.5 / step**0.7)
        grads, kept = gradients(step), list(plain.params)
        for i in [i for i, grad in enumerate(grads) if grad is not None]:
            g = np.clip(grads[i], -1, 1) / math.sqrt(4 + 0.5 * step)
            g = np.where(draws.dropped(params[i], i, 1, 0.3).numpy(), 0, g)
            g = g + sigma * draws.normals(params[i], i).double().numpy()
            grads[i] = g if decoupled else g + decay * plain.params[i]
            kept[i] = plain.params[i] = plain.params[i] * (1 - LR * decay if decoupled else 1)
        plain.step(grads)
        for i in [i for i, grad in enumerate(grads) if grad is not None]:
            plain.params[i] = np.where(draws.dropped(params[i], i, 2, 0.4).numpy(), kept[i], plain.params[i])
            if step % 3 == 0:
                plain.params[i] = slow[i] = slow[i] + 0.6 * (plain.params[i] - slow[i])
    assert_same(params, plain.params)


def everything(params: list[torch.nn.Parameter], clip: Any, **options: Any) -> torchclip.AdaGradNorm:
    modifiers = {"clip": clip, "step_size": AdaLossStep(), "extensions": EXTENSIONS, "seed": 3, "backend": "reference"}
    return torchclip.AdaGradNorm(params, momentum=0.9, **{**modifiers, **options})


def numbers(optimizer: torch.optim.Optimizer) -> dict[str, list[torch.Tensor]]:
    """Copies of everything that a step may write."""
    states = [tensor for state in optimizer.state.values() for tensor in state.values()]
    kinds = {
        "shared": list(shared_of(optimizer).values()),
        "state": states,
        "params": optimizer.param_groups[0]["params"],
    }
    return {kind: [tensor.detach().clone() for tensor in tensors] for kind, tensors in kinds.items()}


STOPPED = {
    "nonfinite": lambda params, optimizer: params[1].grad.fill_(math.inf),
    "found_inf": lambda params, optimizer: setattr(optimizer, "found_inf", torch.tensor(1.0)),
    "no_gradients": lambda params, optimizer: give(params, [None] * len(SHAPES)),
}


@pytest.mark.parametrize(
    "clip", [ZClip(0.9, 2.0, 1, nonfinite="skip"), AutoClip(10.0, nonfinite="skip")], ids=["z", "auto"]
)
@pytest.mark.parametrize("stop", STOPPED.values(), ids=STOPPED)
def test_a_step_that_is_not_taken_writes_nothing(stop: Callable, clip: Any) -> None:
    params = parameters()
    optimizer = everything(params, clip)
    for step in (2, 7, 3):
        give(params, gradients(step))
        optimizer.step(loss=2.0)
    before, fraction = numbers(optimizer), optimizer.metrics()["clipped_fraction"]
    assert 0 < float(fraction) < 1
    give(params, gradients(7))
    stop(params, optimizer)
    optimizer.step(loss=2.0)
    for kind, tensors in numbers(optimizer).items():
        torch.testing.assert_close(tensors, before[kind], rtol=0, atol=0, msg=lambda text, kind=kind: f"{kind}: {text}")
    assert optimizer.metrics()["clipped_fraction"] == fraction
    if hasattr(optimizer, "found_inf"):
        assert float(optimizer.grad_norm) == pytest.approx(joint_norm(gradients(7)), rel=1e-12), "still measured"
        del optimizer.found_inf
    give(params, gradients(4))
    optimizer.step(loss=2.0)
    assert float(shared_of(optimizer)["step"]) == 4 and float(shared_of(optimizer)["norm_count"]) == 4
    assert float(shared_of(optimizer)["b_squared"]) == 9


# Each policy before one scope and each scope behind one policy: neither asks what the other is.
MIXES = {f"{name}-row": (clip, Scope.ROW) for name, clip in EVERY_POLICY.items()}
MIXES |= {f"z_clip-{scope.value}": (EVERY_POLICY["z_clip"], scope) for scope in Scope}


@pytest.mark.parametrize(("clip", "scope"), MIXES.values(), ids=MIXES)
def test_any_mix_resumes_from_a_checkpoint(clip: Any, scope: Scope) -> None:
    """AdaGradNorm with all the rest: twelve steps, and six and six, bit for bit."""
    through, halves = parameters(), parameters()
    optimizers = [everything(params, clip, scope=scope) for params in (through, halves)]
    for step in range(1, STEPS + 1):
        if step == 7:
            saved = optimizers[1].state_dict()
            optimizers[1] = everything(halves, clip, scope=scope, seed=99)
            optimizers[1].load_state_dict(saved)
        for params, optimizer in zip((through, halves), optimizers, strict=True):
            give(params, gradients(step))
            optimizer.step(loss=1.0)
    assert all(torch.equal(one, other) for one, other in zip(through, halves, strict=True))
    assert not any(torch.equal(one, torch.tensor(start)) for one, start in zip(through, values(1), strict=True))
    assert all(bool(param.isfinite().all()) for param in through)


DIFFERENTIABLE = {
    "adagrad_norm-tensor": (Modifiers(), Scope.TENSOR),
    "adagrad_norm-row-adaptive": (Modifiers(AdaptiveGradientClip(0.5)), Scope.ROW),
    "adagrad_norm-dropout-lookahead": (Modifiers(lr_dropout=LRDropout(), lookahead=Lookahead(2)), Scope.OPTIMIZER),
    "adagrad_norm-z_clip": (Modifiers(ZClip(0.5, 0.5, warmup_steps=1)), Scope.GROUP),
    "adagrad_norm-auto_clip": (Modifiers(AutoClip(50.0)), Scope.TENSOR),
}


@pytest.mark.parametrize(("modifiers", "scope"), DIFFERENTIABLE.values(), ids=DIFFERENTIABLE)
def test_gradients_through_two_steps(modifiers: Modifiers, scope: Scope) -> None:
    spec = adagrad_norm(scope) if modifiers.lookahead is None else adagrad_norm(scope).with_slot(SLOW)

    def two_steps(start: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        param, state = start.clone(), {}
        group: dict[str, Any] = {"params": [param], "lr": 0.1, "b0": 0.7, "momentum": 0.9, "weight_decay": 0.1}
        complete_shared([group], modifiers, spec, scope, 3, on_device=False)
        for grad in (first, 3 * second):
            param.grad = grad
            reference_step(spec, [group], state, modifiers=modifiers, scope=scope)
        return param

    generator = torch.Generator().manual_seed(4)
    inputs = [torch.randn(2, 3, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    if modifiers.lookahead is not None:
        inputs[0].requires_grad_(False)  # the slow weights start as a detached copy, as all state does
    assert torch.autograd.gradcheck(two_steps, inputs)
