"""torch.amp.GradScaler on a GPU: unscaling, and a step skipped, without the host knowing."""

from __future__ import annotations

import pytest
import torch

from builders import SPARSE, each_optimizer
from gpu_runs import assert_same, made, outcome, parameters, torch_must_not_wait, write_gradients


def restless(name: str) -> bool:
    return name not in SPARSE  # which may hold a number at zero


@pytest.mark.parametrize("unscale", [False, True], ids=["", "unscale_"])
@each_optimizer
def test_grad_scaler(name: str, unscale: bool) -> None:
    """Scaling by a power of two changes no bit; an overflow changes nothing at all."""
    params, copies = parameters(), parameters()
    scaler = torch.amp.GradScaler("cuda", init_scale=1024.0, growth_interval=100)
    scaled, plain = made(name, params, clip=1.0), made(name, copies, clip=1.0)
    scaler.scale(torch.zeros((), device="cuda"))  # the scale's tensor is made lazily
    for step in range(3):
        write_gradients(step, params, scale=1024.0)
        write_gradients(step, copies)
        given = [param.grad.clone() for param in params]
        if unscale:
            scaler.unscale_(scaled)
            given = [gradient / 1024.0 for gradient in given]
        with torch_must_not_wait():
            scaler.step(scaled, loss=1.0)
        scaler.update()
        assert all(torch.equal(param.grad, gradient) for param, gradient in zip(params, given)), ".grad was written"
        plain.step(loss=1.0)
        left, right = outcome(scaled), outcome(plain)
        for key, value in left.items():
            torch.testing.assert_close(value, right[key], msg=lambda text, key=key: f"{key}: {text}")
    before = outcome(scaled)
    write_gradients(4, params, scale=1024.0)
    params[0].grad[1, 1] = torch.inf
    if unscale:
        scaler.unscale_(scaled)
    scaler.step(scaled, loss=1.0)
    scaler.update()
    kept = [key for key in before if not key.startswith("metrics")]
    after = outcome(scaled)
    assert_same({key: after[key] for key in kept}, {key: before[key] for key in kept})
    assert scaler.get_scale() == 512.0
    write_gradients(5, params, scale=512.0)
    scaler.step(scaled, loss=1.0)
    if restless(name):
        assert not torch.equal(params[0].detach(), before["parameter 0 0"])
