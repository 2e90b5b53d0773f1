"""WeightEMA beside torch's own averages, and `with optimizer.averaged():`."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import torchclip
from builders import copies_of, leaves
from memory_guard import same_bits
from torchclip import Lookahead, WeightEMA


def test_agrees_with_torchs_averaged_model(backend: str) -> None:
    """Which takes its first update for a copy: here that of the parameters before the first step."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(7, 5), torch.nn.Linear(5, 3))
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    averaged.update_parameters(model)
    extensions = (WeightEMA(decay=0.9, warmup=False),)
    optimizer = torchclip.AdamW(model.parameters(), lr=0.1, clip=1.0, extensions=extensions, backend=backend)
    for _ in range(12):
        optimizer.zero_grad()
        model(torch.randn(4, 7)).square().mean().backward()
        optimizer.step()
        averaged.update_parameters(model)
    own = [p.detach().clone() for p in model.parameters()]
    with optimizer.averaged():
        for p, q in zip(model.parameters(), averaged.module.parameters(), strict=True):
            torch.testing.assert_close(p.detach(), q.detach(), rtol=1e-6, atol=1e-7)
    assert all(same_bits(p, q) for p, q in zip(model.parameters(), own))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("warmup", "every"), [(True, 1), (True, 3), (False, 2)])
def test_averages_by_its_equation(warmup: bool, every: int, dtype: torch.dtype, backend: str) -> None:
    param = torch.nn.Parameter(torch.linspace(-1, 1, 5).to(dtype))
    extension = WeightEMA(decay=0.7, warmup=warmup, update_every=every)
    optimizer = torchclip.SGD([param], lr=0.5, extensions=(extension,), backend=backend)
    expected = param.detach().double().clone()
    for step in range(1, 14):
        param.grad = torch.randn_like(param)
        optimizer.step()
        if step % every == 0:
            decay = min(0.7, (1 + step) / (10 + step)) if warmup else 0.7
            expected = decay * expected + (1 - decay) * param.detach().double()
    average = optimizer.state[param]["ema"]
    assert average.dtype is torch.promote_types(dtype, torch.float32)
    torch.testing.assert_close(average.double(), expected, rtol=0, atol=1e-12 if dtype is torch.float64 else 1e-6)


def test_an_infinite_parameter_is_averaged_alike(backend: str) -> None:
    """e + (1 − d)(p − e): infinite in one step, and then a difference of infinities."""
    param = torch.nn.Parameter(torch.tensor([1.0, math.inf]))
    optimizer = torchclip.SGD([param], lr=0.5, extensions=(WeightEMA(decay=0.5),), backend=backend)
    param.grad = torch.zeros(2)
    optimizer.step()
    assert optimizer.state[param]["ema"][0] == 1.0 and optimizer.state[param]["ema"][1].isnan()


def test_the_average_goes_with_the_state(backend: str) -> None:
    params = leaves(2)
    extensions = (WeightEMA(decay=0.5),)
    optimizer = torchclip.SGD(params, lr=0.1, momentum=0.9, extensions=extensions, backend=backend)
    for _ in range(3):
        optimizer.step()
    copies = copies_of(params)
    other = torchclip.SGD(copies, lr=0.1, momentum=0.9, extensions=extensions, backend=backend)
    other.load_state_dict(optimizer.state_dict())
    optimizer.step()
    other.step()
    for p, q in zip(params, copies, strict=True):
        assert same_bits(p, q) and same_bits(optimizer.state[p]["ema"], other.state[q]["ema"])


def test_averaged_puts_back_what_was_there(backend: str) -> None:
    params = leaves(3)
    optimizer = torchclip.GRDA(params, lr=0.1, c=0.5, extensions=(WeightEMA(decay=0.5),), backend=backend)
    with optimizer.averaged():
        assert len(optimizer.state) == 0, "nothing was averaged yet"
    optimizer.step()
    own, sparsity = [p.detach().clone() for p in params], optimizer.sparsity()

    def check_within() -> None:
        assert not any(torch.equal(p.detach(), q) for p, q in zip(params, own))
        with pytest.raises(RuntimeError, match=r"step\(\) was called within averaged\(\)"):
            optimizer.step()
        with pytest.raises(RuntimeError, match=r"averaged\(\) was called within averaged\(\)"), optimizer.averaged():
            pass
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), optimizer.averaged():
        check_within()
    assert all(same_bits(p, q) for p, q in zip(params, own))
    assert torch.equal(optimizer.sparsity(), sparsity)
    optimizer.step()


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="Lookahead and WeightEMA cannot be combined"):
        torchclip.SGD(leaves(1), lr=0.1, extensions=(WeightEMA(), Lookahead()))
    with pytest.raises(RuntimeError, match=r"extensions=\(torchclip.WeightEMA"), torchclip.SGD(leaves(1)).averaged():
        pass


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"decay": -0.1}, ValueError),
        ({"decay": 1.1}, ValueError),
        ({"decay": "0.9"}, TypeError),
        ({"warmup": 1}, TypeError),
        ({"update_every": 0}, ValueError),
        ({"update_every": 2.0}, TypeError),
    ],
    ids=str,
)
def test_fields_out_of_range(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=next(iter(options))):
        WeightEMA(**options)
