"""Step sizes beside the classes and schedules that say the same, and the learning-rate scheduler."""

from __future__ import annotations

import copy
import io
import math
import warnings
from typing import Any

import pytest
import torch

import torchclip
from builders import assert_same_params, copies_of, draw_gradients, leaves
from torchclip import AdaLossStep, SqrtDecay, SqrtDecayLR

each_namespace = pytest.mark.parametrize("cls", [torchclip.SGD, torch.optim.SGD], ids=["torchclip", "torch"])


def rate(t: int, b0: float = 2.0, alpha: float = 0.5) -> float:
    """The factor in step t."""
    return 1 / math.sqrt(b0**2 + alpha * t)


@each_namespace
def test_scheduler_values(cls: type[torch.optim.Optimizer]) -> None:
    """The first step already has t = 1; each group keeps its own rate."""
    params = leaves()
    optimizer = cls([{"params": params[:1]}, {"params": params[1:], "lr": 0.3}], lr=0.7)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scheduler = SqrtDecayLR(optimizer, b0=2.0, alpha=0.5)
        for t in range(1, 30):
            rates = [group["lr"] for group in optimizer.param_groups]
            assert rates == pytest.approx([0.7 * rate(t), 0.3 * rate(t)], rel=1e-12)
            assert scheduler.get_last_lr() == rates
            optimizer.step()
            scheduler.step()


@each_namespace
def test_scheduler_goes_on_from_a_checkpoint(cls: type[torch.optim.Optimizer]) -> None:
    params = leaves()
    optimizer = cls(params, lr=0.7)
    scheduler = SqrtDecayLR(optimizer, b0=2.0, alpha=0.5)
    for _ in range(5):
        optimizer.step()
        scheduler.step()
    file = io.BytesIO()
    torch.save({"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    fresh = cls(params, lr=9.0)
    resumed = SqrtDecayLR(fresh)  # what it was made with comes from the checkpoint
    fresh.load_state_dict(saved["optimizer"])
    resumed.load_state_dict(saved["scheduler"])
    assert (resumed.b0, resumed.alpha) == (2.0, 0.5)
    for t in range(6, 10):
        assert fresh.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"] == pytest.approx(0.7 * rate(t), rel=1e-12)
        for one, other in ((optimizer, scheduler), (fresh, resumed)):
            one.step()
            other.step()
    # From the number of steps alone, as torch's schedulers do.
    continued = SqrtDecayLR(fresh, b0=2.0, alpha=0.5, last_epoch=fresh.param_groups[0].get("last_epoch", 8))
    assert continued.get_last_lr() == pytest.approx([0.7 * rate(10)], rel=1e-12)


def test_scheduler_with_a_tensor_rate(backend: str) -> None:
    lr = torch.tensor(0.8)
    optimizer = torchclip.SGD(leaves(), lr=lr, backend=backend)
    scheduler = SqrtDecayLR(optimizer, b0=1.0, alpha=3.0)
    assert optimizer.param_groups[0]["lr"] is lr and float(lr) == pytest.approx(0.4)
    optimizer.step()
    scheduler.step()
    assert float(lr) == pytest.approx(0.8 * rate(2, 1.0, 3.0))


def test_scheduler_and_step_size_are_one_without_momentum(backend: str) -> None:
    params = leaves()
    copies = copies_of(params)
    scaled = torchclip.SGD(params, lr=0.5, step_size=SqrtDecay(2.0, 0.5), backend=backend)
    scheduled = torchclip.SGD(copies, lr=0.5, backend=backend)
    scheduler = SqrtDecayLR(scheduled, 2.0, 0.5)
    for step in range(6):
        draw_gradients(step, params, copies)
        scaled.step()
        scheduled.step()
        scheduler.step()
    torch.testing.assert_close(params, copies)


def test_ada_loss_is_sgd_with_its_step_size(backend: str) -> None:
    options: dict[str, Any] = {"momentum": 0.9, "weight_decay": 0.1, "nesterov": True, "clip": 2.0, "backend": backend}
    params = leaves()
    copies = copies_of(params)
    ours = torchclip.AdaLoss(params, 0.3, 2.0, 0.5, 0.25, **options)
    plain = torchclip.SGD(copies, lr=0.3, step_size=AdaLossStep(2.0, 0.5, 0.25), **options)
    assert ours.step_size == plain.step_size == AdaLossStep(2.0, 0.5, 0.25)
    for step in range(5):
        draw_gradients(step, params, copies)
        ours.step(loss=torch.tensor(0.5 + step))
        plain.step(lambda step=step: 0.5 + step)
        assert_same_params(params, copies)
    assert float(ours.param_groups[0]["shared"]["b_squared"]) == 4.0 + 0.5 * sum(abs(0.25 + step) for step in range(5))


def test_ada_loss_beside_the_formula(backend: str) -> None:
    """Decay and momentum come after the division."""
    param = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
    optimizer = torchclip.AdaLoss(
        [param], lr=0.5, b0=1.5, alpha=2.0, c=1.0, momentum=0.5, weight_decay=0.25, backend=backend
    )
    expected, buffer, b_squared = torch.ones(3, dtype=torch.float64), None, 1.5**2
    for loss in (3.0, 0.25, 1.0):
        param.grad = torch.tensor([1.0, -2.0, loss], dtype=torch.float64)
        b_squared += 2.0 * abs(loss - 1.0)
        gradient = param.grad / math.sqrt(b_squared) + 0.25 * expected
        buffer = gradient if buffer is None else 0.5 * buffer + gradient
        expected = expected - 0.5 * buffer
        optimizer.step(loss=loss)
        torch.testing.assert_close(param.detach(), expected, rtol=1e-12, atol=1e-12)


def test_the_closure_is_run_once_and_its_loss_taken(backend: str) -> None:
    param = torch.nn.Parameter(torch.full((2,), 2.0))
    optimizer = torchclip.AdaLoss([param], lr=0.1, backend=backend)
    calls = []

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = param.square().sum()
        loss.backward()
        calls.append(float(loss.detach()))
        return loss

    returned = optimizer.step(closure)
    assert calls == [8.0] and returned.requires_grad
    assert float(optimizer.param_groups[0]["shared"]["b_squared"]) == 9.0
    torch.testing.assert_close(param.detach(), torch.full((2,), 2.0 - 0.1 * 4.0 / 3.0))
    optimizer.step(closure, loss=7.0)  # an explicit loss goes before the closure's
    assert len(calls) == 2 and float(optimizer.param_groups[0]["shared"]["b_squared"]) == 16.0


@pytest.mark.parametrize("step_size", [AdaLossStep(), SqrtDecay()], ids=["AdaLossStep", "SqrtDecay"])
def test_a_step_that_is_not_taken_leaves_the_shared_numbers(step_size: object, backend: str) -> None:
    params = leaves()
    skip = torchclip.ClipByGlobalNorm(math.inf, nonfinite="skip")
    optimizer = torchclip.SGD(params, lr=0.1, clip=skip, step_size=step_size, backend=backend)
    optimizer.step(loss=2.0)
    before = copy.deepcopy(optimizer.param_groups[0]["shared"])
    params[0].grad[0, 0] = math.nan
    optimizer.step(loss=2.0)
    for p in params:
        p.grad = None
    optimizer.step(loss=2.0)
    for name, value in optimizer.param_groups[0]["shared"].items():
        assert torch.equal(value, before[name]), name


def test_shared_numbers_are_written_in_place(backend: str) -> None:
    """A tensor that was read before the step is the one that holds the new number."""
    optimizer = torchclip.AdaGradNorm(leaves(), step_size=AdaLossStep(), clip=torchclip.ZClip(), backend=backend)
    before = dict(optimizer.param_groups[0]["shared"])
    optimizer.step(loss=2.0)
    after = optimizer.param_groups[0]["shared"]
    assert before.keys() == after.keys() and all(after[name] is value for name, value in before.items())
    assert float(before["b_squared"]) == 3.0 and float(before["norm_count"]) == 1.0 and float(before["sum"]) > 1.0


def test_the_loss_reaches_the_backend_that_takes_over_in_mid_step() -> None:
    weight, twin = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    optimizer = torchclip.AdaLoss([weight], lr=0.1, momentum=0.9)
    same = torchclip.AdaLoss([twin], lr=0.1, momentum=0.9, backend="reference")
    for step in range(2):
        weight.grad = twin.grad = torch.full((3,), 2.0)
        if step == 1:  # the state is gone, so that the step looks again at what serves the parameters
            optimizer.state.clear()
            same.state.clear()
            optimizer.param_groups[0]["fused"] = False
        for each in (optimizer, same):
            each.step(loss=torch.tensor(3.0))
    assert optimizer.backend == "reference"
    torch.testing.assert_close(weight, twin)
