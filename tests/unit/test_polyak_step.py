"""PolyakStep, number by number as ALI-G and SPS have it, on every backend."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import torchclip
from builders import copies_of, leaves
from memory_guard import same_bits
from torchclip import ClipByGlobalNorm, ClipByTensorNorm, ClipByValue, PolyakStep

STEPS = 12
Numbers = list[float]


def draws(step: int, count: int) -> tuple[Numbers, float]:
    """The gradient and the loss of a step."""
    generator = torch.Generator().manual_seed(step)
    drawn = torch.randn(count, generator=generator, dtype=torch.float64).tolist()
    return drawn, 0.05 + float(torch.rand((), generator=generator))


def own_step(loss: float, gradient: Numbers, f_star: float, c: float, eps: float) -> float:
    return max(loss - f_star, 0.0) / (c * sum(g * g for g in gradient) + eps)


FORMS: dict[str, tuple[dict[str, Any], PolyakStep]] = {
    "ali_g": ({"lr": 0.1}, PolyakStep()),
    "ali_g-momentum": ({"lr": 0.1, "momentum": 0.9, "nesterov": True}, PolyakStep()),
    "sps_max": ({"lr": 0.02}, PolyakStep(c=0.5, eps=1e-8)),
    "sps-smooth": ({"lr": 1e6}, PolyakStep(c=0.5, eps=1e-8, growth=1.1, initial_step=1e-3)),
    "f_star": ({"lr": 0.1}, PolyakStep(f_star=0.5)),
}


@pytest.mark.parametrize(("options", "step_size"), FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_steps_as_its_authors(options: dict[str, Any], step_size: PolyakStep, dtype: torch.dtype, backend: str) -> None:
    param = torch.nn.Parameter(torch.linspace(-1, 1, 9, dtype=dtype))
    optimizer = torchclip.SGD([param], **options, step_size=step_size, backend=backend)
    values, buffer = param.detach().double().tolist(), [0.0] * 9
    lr, momentum, before = options["lr"], options.get("momentum", 0.0), step_size.initial_step
    for step in range(1, STEPS + 1):
        gradient, loss = draws(step, 9)
        rate = own_step(loss, gradient, step_size.f_star, step_size.c, step_size.eps)
        if step_size.growth is not None:
            before = rate = min(rate, step_size.growth * before)
        rate = min(rate, lr)
        scaled = [rate * g for g in gradient]
        buffer = [momentum * b + g for b, g in zip(buffer, scaled, strict=True)]
        moved = [g + momentum * b for g, b in zip(scaled, buffer, strict=True)] if momentum else scaled
        values = [value - change for value, change in zip(values, moved, strict=True)]
        param.grad = torch.tensor(gradient, dtype=dtype)
        optimizer.step(loss=torch.tensor(loss, dtype=torch.float64))
        assert float(optimizer.metrics()["lr_scale"]) == pytest.approx(rate / lr, rel=1e-5)
    expected = torch.tensor(values, dtype=torch.float64)
    torch.testing.assert_close(
        param.detach().double(), expected, rtol=0, atol=3e-6 if dtype is torch.float32 else 1e-12
    )


@pytest.mark.parametrize(
    "clip", [ClipByGlobalNorm(0.5), ClipByTensorNorm(0.5), ClipByGlobalNorm(0.5, scope="group")], ids=str
)
def test_goes_by_the_norm_after_clipping(clip: Any, backend: str) -> None:
    """As an optimizer without a policy over gradients that are clipped already; each group has its own rate."""
    params = leaves(3)
    copies = copies_of(params)

    def build(params: list[torch.nn.Parameter], **options: Any) -> torch.optim.Optimizer:
        groups = [{"params": params[:2]}, {"params": params[2:], "lr": 0.05}]
        return torchclip.SGD(groups, lr=0.5, step_size=PolyakStep(), backend=backend, **options)

    clipped, plain = build(params, clip=clip), build(copies)
    for step in range(3):
        for p, q in zip(params, copies, strict=True):
            p.grad = torch.randn_like(p) * (1 + step)
            q.grad = p.grad.clone()
        sets = {"tensor": [[q] for q in copies], "group": [copies[:2], copies[2:]], "optimizer": [copies]}
        for together in sets[str(clip.scope.value)]:
            torchclip.clip_grad_norm_(together, 0.5)
        clipped.step(loss=0.1 * step)
        plain.step(loss=0.1 * step)
    for p, q in zip(params, copies, strict=True):
        torch.testing.assert_close(p.detach(), q.detach())


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_moves_nothing(loss: float, backend: str) -> None:
    params = leaves(2)
    optimizer = torchclip.SGD(params, lr=0.5, step_size=PolyakStep(growth=2.0, initial_step=0.3), backend=backend)
    before = [p.detach().clone() for p in params]
    optimizer.step(loss=loss)
    assert all(same_bits(p, q) for p, q in zip(params, before))
    assert float(optimizer.param_groups[0]["shared"]["polyak_step"]) == 0.3


def test_the_step_before_goes_with_the_state(backend: str) -> None:
    step_size = PolyakStep(growth=1.01, initial_step=1e-3)
    params = leaves(2)
    optimizer = torchclip.SGD(params, lr=9.0, step_size=step_size, backend=backend)
    optimizer.step(loss=100.0)
    copies = copies_of(params)
    other = torchclip.SGD(copies, lr=9.0, step_size=step_size, backend=backend)
    other.load_state_dict(optimizer.state_dict())
    optimizer.step(loss=100.0)
    other.step(loss=100.0)
    assert all(same_bits(p, q) for p, q in zip(params, copies))
    assert float(other.param_groups[0]["shared"]["polyak_step"]) == pytest.approx(1.01**2 * 1e-3)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        *(({name: value}, ValueError) for name in ("c", "eps", "growth", "initial_step") for value in (0.0, -1.0)),
        ({"f_star": math.inf}, ValueError),
        ({"growth": "2"}, TypeError),
        ({"is_averaged": 1}, TypeError),
    ],
    ids=str,
)
def test_fields_out_of_range(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=next(iter(options))):
        PolyakStep(**options)


def test_cannot_stand_beside_clip_by_value() -> None:
    with pytest.raises(ValueError, match="PolyakStep cannot be combined with ClipByValue"):
        torchclip.SGD(leaves(1), lr=0.1, step_size=PolyakStep(), clip=ClipByValue(1.0))
    optimizer = torchclip.SGD(leaves(1), lr=0.1, step_size=PolyakStep(), clip=1.0)
    with pytest.raises(ValueError, match="PolyakStep cannot be combined with ClipByValue"):
        optimizer.clip = ClipByValue(1.0)
    assert optimizer.clip == ClipByGlobalNorm(1.0)
    with pytest.raises(TypeError, match=r"step\(closure\).*or step\(loss=loss\)"):
        optimizer.step()
