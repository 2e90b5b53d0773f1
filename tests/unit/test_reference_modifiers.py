"""Clip policies, step sizes and extensions on the reference path, against plain loops of the papers.

The loops, those of ``paper_forms`` among them, are numpy's or Python's, take every parameter for itself, and know no
shared numbers.
"""

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
    POLICIES,
    SHAPES,
    STEPS,
    PlainSGD,
    assert_same,
    give,
    gradients,
    joint_norm,
    parameters,
    scaled,
    sgd,
    shared_of,
    values,
)
from torchclip.policies.clip import AdaGC, AdaptiveGradientClip, AutoClip
from torchclip.policies.extensions import Lookahead
from torchclip.policies.step_size import AdaLossStep, SqrtDecay


@pytest.mark.parametrize(("policy", "paper"), POLICIES.values(), ids=POLICIES)
def test_policies_clip_as_their_papers(policy: Any, paper: Callable) -> None:
    params, plain, clip = parameters(), PlainSGD(), paper()
    optimizer = sgd(params, clip=policy)
    clipped = 0
    for step in range(1, STEPS + 1):
        give(params, gradients(step))
        optimizer.step()
        grads = clip(plain.params, gradients(step))
        norm, left = joint_norm(gradients(step)), joint_norm(grads)
        clipped += left < norm * (1 - 1e-9)
        measured = optimizer.metrics()
        norms, factors = (
            measured["grad_norm"].reshape(-1),
            measured["clip_factor"].reshape(-1),
        )  # AdaGC's are of tensors
        assert float(norms.norm()) == pytest.approx(norm, rel=1e-12)
        assert float((norms * factors).norm()) == pytest.approx(left, rel=1e-12)
        assert float(measured["clipped_fraction"]) == pytest.approx(clipped / step, rel=1e-12)
        plain.step(grads)
    assert 0 < clipped <= STEPS, "this case does not clip"
    assert_same(params, plain.params)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("policy", EVERY_POLICY.values(), ids=EVERY_POLICY)
def test_a_norm_that_is_not_finite_shows_and_is_not_remembered(policy: Any, bad: float) -> None:
    params = parameters()
    optimizer = sgd(params, clip=policy)
    for step in (1, 2, 3, 4):  # past the warm-up of most
        give(params, gradients(step))
        optimizer.step()
    before = (
        {name: value.clone() for name, value in shared_of(optimizer).items()}
        if "shared" in optimizer.param_groups[0]
        else {}
    )
    grads = gradients(1)
    grads[0][1, 2] = bad
    give(params, grads)
    optimizer.step()
    assert not bool(params[0][1, 2].isfinite())
    assert not bool(optimizer.grad_norm.isfinite().all())
    if isinstance(policy, AdaGC):  # which counts steps, and remembers the norms of the others
        before = {"norm_bounds": before["norm_bounds"]}
        before["norm_bounds"][1:] = shared_of(optimizer)["norm_bounds"][1:]
    assert all(torch.equal(shared_of(optimizer)[name], value) for name, value in before.items())


def test_auto_clip_without_a_finite_norm_clips_nothing() -> None:
    params = parameters()
    optimizer = sgd(params, clip=AutoClip())
    give(params, [np.full(shape, math.inf) for shape in SHAPES])
    optimizer.step()
    assert float(optimizer.clip_factor) == 1 and float(shared_of(optimizer)["norm_count"]) == 0


def test_adaptive_clip_of_slack_units_is_a_factor_of_exactly_one() -> None:
    params = parameters()
    optimizer = sgd(params, clip=AdaptiveGradientClip(1e6))
    for step in (1, 2):
        give(params, gradients(step))
        optimizer.step()
        assert float(optimizer.clip_factor) == 1 and float(optimizer.metrics()["clipped_fraction"]) == 0


LOSSES = [2.0, 0.5, math.nan, 3.0, -1.0, math.inf, 0.25, 1.0, 0.0, 8.0, 0.125, 2.5]


def ada_loss_scale(b_squared: float, alpha: float, c: float) -> Callable[[int], float]:
    def scale(step: int) -> float:
        gaps = [alpha * abs(loss - c) for loss in LOSSES[:step] if math.isfinite(loss)]
        return 1 / math.sqrt(b_squared + sum(gaps))

    return scale


STEP_SIZES: dict[str, tuple[Any, Callable[[int], float]]] = {
    "ada_loss": (AdaLossStep(), ada_loss_scale(1.0, 1.0, 0.0)),
    "ada_loss-options": (AdaLossStep(b0=0.5, alpha=3.0, c=0.75), ada_loss_scale(0.25, 3.0, 0.75)),
    "sqrt_decay": (SqrtDecay(), lambda step: 1 / math.sqrt(1 + step)),
    "sqrt_decay-options": (SqrtDecay(b0=0.5, alpha=3.0), lambda step: 1 / math.sqrt(0.25 + 3 * step)),
}


@pytest.mark.parametrize(("step_size", "scale"), STEP_SIZES.values(), ids=STEP_SIZES)
def test_step_sizes_scale_as_their_formulas(step_size: Any, scale: Callable[[int], float]) -> None:
    params, plain = parameters(), PlainSGD()
    optimizer = sgd(params, step_size=step_size)
    for step in range(1, STEPS + 1):
        give(params, gradients(step))
        optimizer.step(loss=torch.tensor(LOSSES[step - 1], dtype=torch.float64))
        plain.step(scaled(gradients(step), scale(step)))
        assert optimizer.metrics().keys() == {"lr_scale", "sparsity"}
        assert float(optimizer.metrics()["lr_scale"]) == pytest.approx(scale(step), rel=1e-12)
    assert_same(params, plain.params)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_leaves_b(bad: float) -> None:
    params = parameters()
    optimizer = torchclip.AdaLoss(params, b0=2.0, backend="reference")
    give(params, gradients(1))
    optimizer.step(loss=3.0)
    optimizer.step(loss=bad)
    assert float(shared_of(optimizer)["b_squared"]) == 7.0


@pytest.mark.parametrize(("k", "alpha"), [(5, 0.5), (1, 0.3), (3, 1.0), (4, 0.0)], ids=lambda value: str(value))
def test_lookahead_as_its_paper(k: int, alpha: float) -> None:
    params, plain, slow = parameters(), PlainSGD(), values(1)
    optimizer = sgd(params, extensions=(Lookahead(k, alpha),))
    for step in range(1, STEPS + 1):
        give(params, gradients(step))
        optimizer.step()
        plain.step(gradients(step))
        for i in range(len(SHAPES)):
            if step % k == 0 and gradients(step)[i] is not None:
                slow[i] = slow[i] + alpha * (plain.params[i] - slow[i])
                plain.params[i] = slow[i]
    assert_same(params, plain.params)
    assert_same([optimizer.state[param]["slow"] for param in params], slow)


def test_lookahead_starts_from_the_rounded_parameter() -> None:
    """A float32 loop with its bfloat16 rounding: 1 - 0.1 * 0.03 is 0.996 in bfloat16, and not 0.997."""
    param = torch.nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
    param.grad = torch.full_like(param, 0.03)
    optimizer = sgd([param], extensions=(Lookahead(1, 0.5),))
    optimizer.step()
    fast = (1 - LR * param.grad.float()).bfloat16().float()
    assert optimizer.state[param]["slow"].dtype is torch.float32
    torch.testing.assert_close(optimizer.state[param]["slow"], 1 + 0.5 * (fast - 1), rtol=0, atol=0)


def test_slow_weights_that_are_missing_make_no_first_step() -> None:
    params, plain = parameters(), PlainSGD()
    optimizer = sgd(params, extensions=(Lookahead(STEPS + 1),))
    for step in range(1, STEPS + 1):
        give(params, gradients(step))
        for state in optimizer.state.values():
            state.pop("slow", None)
        optimizer.step()
        plain.step(gradients(step))
    assert_same(params, plain.params)
