"""SkipSpikes, number by number, on every backend; and that a step that it skips has happened nowhere else."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

import torchclip
from builders import copies_of, leaves
from memory_guard import same_bits
from torchclip import AdaGC, ClipByGlobalNorm, ClipByValue, SkipSpikes, WeightEMA

WINDOW, SIGMA, STEPS = 6, 2.0, 24
SCALES = {9: 40.0, 10: 60.0, 15: 1e4, 18: float("nan"), 20: float("inf")}
"""Factors on the gradients of a step."""
LOSSES = {7: 50.0, 13: float("inf"), 17: float("nan"), 22: 1e6}


def spikes(values: Sequence[float], window: int = WINDOW, sigma: float = SIGMA) -> list[bool]:
    """Of each value, whether the authors' rule skips its step, with torch's std in place of a NaN of one value."""
    history: list[float] = []
    found = []
    for value in values:
        if not torch.tensor(value).isfinite():
            found.append(True)
            continue
        before = history[-window:]
        judged = len(before) >= 2 and len(before) + 1 >= max(2, window // 2)
        found.append(judged and value - statistics.fmean(before) > sigma * statistics.stdev(before))
        history.append(value)
    return found


def draws(spikes_in_gradients: bool = True) -> tuple[list[list[Tensor]], list[float]]:
    """The gradients and the loss of every step."""
    scales = SCALES if spikes_in_gradients else {}
    generator = torch.Generator().manual_seed(3)
    gradients = [
        [scales.get(step, 1.0) * torch.randn(shape, generator=generator) for shape in ((4, 5), (17,), (2, 3, 3))]
        for step in range(1, STEPS + 1)
    ]
    losses = [LOSSES.get(step, 1.0 + float(torch.rand((), generator=generator))) for step in range(1, STEPS + 1)]
    return gradients, losses


def norm_of(gradients: Sequence[Tensor]) -> float:
    return float(torch.cat([gradient.flatten() for gradient in gradients]).double().norm())


@pytest.mark.parametrize("on", ["grad_norm", "loss", ("grad_norm", "loss")], ids=str)
@pytest.mark.parametrize("clip", [None, 1.0, ClipByValue(0.5), AdaGC(warmup_steps=3)], ids=str)
def test_skips_what_the_rule_skips(on: Any, clip: Any, backend: str) -> None:
    gradients, losses = draws("grad_norm" in on)
    wanted = [False] * STEPS
    if "grad_norm" in on:
        wanted = [a or b for a, b in zip(wanted, spikes([norm_of(each) for each in gradients]))]
    if "loss" in on:
        wanted = [a or b for a, b in zip(wanted, spikes(losses))]
    params = leaves(3)
    optimizer = torchclip.AdamW(
        params, lr=0.1, clip=clip, skip=SkipSpikes(WINDOW, SIGMA, on), extensions=(WeightEMA(0.9),), backend=backend
    )
    # Those that the rule lets pass are taken by an optimizer that skips nothing.
    copies = copies_of(params)
    plain = torchclip.AdamW(copies, lr=0.1, clip=clip, extensions=(WeightEMA(0.9),), backend=backend)
    assert sum(wanted) >= 3
    for step, (own, loss, skips) in enumerate(zip(gradients, losses, wanted, strict=True)):
        for p, q, gradient in zip(params, copies, own, strict=True):
            p.grad, q.grad = gradient.clone(), gradient.clone()
        optimizer.step(loss=loss)
        if not skips:
            plain.step()
        assert optimizer.step_was_skipped == skips, step
        metrics = optimizer.metrics()
        assert float(metrics["skipped"]) == skips
        assert float(metrics["skipped_fraction"]) == pytest.approx(sum(wanted[: step + 1]) / (step + 1))
    for p, q in zip(params, copies, strict=True):
        assert torch.equal(p.detach(), q.detach())
        for name, value in plain.state[q].items():
            assert torch.equal(optimizer.state[p][name], value), name
    for name, number in plain.param_groups[0]["shared"].items():
        assert torch.equal(optimizer.param_groups[0]["shared"][name], number), name


def test_history_goes_with_the_state(backend: str) -> None:
    gradients, losses = draws()
    skip = SkipSpikes(WINDOW, SIGMA)
    params = leaves(3)
    optimizer = torchclip.SGD(params, lr=0.1, momentum=0.9, skip=skip, backend=backend)
    copies = copies_of(params)
    other = torchclip.SGD(copies, lr=7.0, momentum=0.9, skip=skip, backend=backend)
    for step, (own, loss) in enumerate(zip(gradients, losses, strict=True)):
        if step == 8:
            other.load_state_dict(optimizer.state_dict())
            for p, q in zip(params, copies, strict=True):
                q.data.copy_(p.detach())
        for p, q, gradient in zip(params, copies, own, strict=True):
            p.grad, q.grad = gradient.clone(), gradient.clone()
        optimizer.step(loss=loss)
        if step >= 8:
            other.step(loss=loss)
            assert optimizer.step_was_skipped == other.step_was_skipped
    assert all(same_bits(p, q) for p, q in zip(params, copies))


def test_history_of_another_window_starts_anew(backend: str) -> None:
    params = leaves(2)
    optimizer = torchclip.SGD(params, lr=0.1, skip=SkipSpikes(4), backend=backend)
    optimizer.step(loss=1.0)
    other = torchclip.SGD(copies_of(params), lr=0.1, skip=SkipSpikes(8), backend=backend)
    with pytest.warns(UserWarning, match=r"skip_losses.*is not what SkipSpikes\(window=8.*starts anew"):
        other.load_state_dict(optimizer.state_dict())


def test_an_overflow_of_the_loss_scale_is_not_remembered(backend: str) -> None:
    params = leaves(2)
    optimizer = torchclip.SGD(params, lr=0.1, skip=SkipSpikes(4), backend=backend)
    optimizer.found_inf = torch.ones(1)
    optimizer.step(loss=1.0)
    del optimizer.found_inf
    assert optimizer.step_was_skipped
    shared = optimizer.param_groups[0]["shared"]
    assert float(shared["skip_norm_count"]) == float(shared["skip_loss_count"]) == 0


def test_what_is_missing_or_wrong(backend: str) -> None:
    optimizer = torchclip.SGD(leaves(2), lr=0.1, skip=SkipSpikes(), backend=backend)
    with pytest.raises(TypeError, match=r"step\(closure\).*or step\(loss=loss\)"):
        optimizer.step()
    with pytest.raises(ValueError, match="must be a scalar"):
        optimizer.step(loss=torch.ones(2))
    with pytest.raises(TypeError, match="skip=6.0 must be None or SkipSpikes"):
        torchclip.SGD(leaves(1), lr=0.1, skip=6.0)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"window": 1}, ValueError, "Invalid window: 1"),
        ({"window": 1025}, ValueError, "Invalid window: 1025"),
        ({"window": 4.0}, TypeError, "window=4.0 must be an integer"),
        ({"sigma": 0.0}, ValueError, "Invalid sigma: 0.0"),
        ({"sigma": -1.0}, ValueError, "Invalid sigma: -1.0"),
        ({"on": ()}, ValueError, "Invalid on"),
        ({"on": ("norm",)}, ValueError, "Invalid on"),
        ({"on": ("loss", "loss")}, ValueError, "Invalid on"),
        ({"is_averaged": 1}, TypeError, "is_averaged=1"),
    ],
)
def test_fields_out_of_range(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        SkipSpikes(**options)


def test_a_norm_that_raises_still_raises(backend: str) -> None:
    params = leaves(2)
    optimizer = torchclip.SGD(
        params, lr=0.1, clip=ClipByGlobalNorm(1.0, nonfinite="error"), skip=SkipSpikes(4), backend=backend
    )
    params[0].grad[0, 0] = torch.nan
    with pytest.raises(RuntimeError, match="not finite"):
        optimizer.step(loss=1.0)
