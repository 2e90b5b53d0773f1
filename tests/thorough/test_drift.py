"""Ten thousand steps of a few rules, beside float64: errors add up no faster than in the reference path."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import torchclip
from memory_guard import same_bits

pytestmark = pytest.mark.thorough

STEPS = 10_000
SIZE = 257

RULES = {
    "sgd": (torchclip.SGD, {"lr": 1e-3, "momentum": 0.9, "weight_decay": 1e-3}),
    "adamw": (torchclip.AdamW, {"lr": 1e-3, "amsgrad": True}),
    "rmsprop": (torchclip.RMSprop, {"lr": 1e-3, "momentum": 0.5, "centered": True, "eps": 0.1}),
    "adagrad": (torchclip.Adagrad, {"lr": 1e-2}),
    "mix_clip": (torchclip.MixClip, {"lr": 1e-2, "gamma": 1.0}),
    "ada_grad_norm": (torchclip.AdaGradNorm, {"lr": 1.0, "momentum": 0.9}),
    "grda": (torchclip.GRDA, {"lr": 1e-3, "c": 0.01}),
}


def gradients(step: int) -> Tensor:
    """Of half the size in the mean as they vary, so that the parameters travel."""
    generator = torch.Generator().manual_seed(step)
    return torch.randn(SIZE, generator=generator) + torch.linspace(-0.5, 0.5, SIZE)


@pytest.mark.parametrize("backend", ("cpu",), indirect=True)
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
@pytest.mark.parametrize("name", RULES)
def test_drift_of_ten_thousand_steps(name: str, dtype: torch.dtype, backend: str) -> None:
    """Twice the reference's own, and the rounding of what is stored."""
    cls, options = RULES[name]
    start = torch.linspace(-2, 2, SIZE).to(dtype)
    kinds = ((backend, dtype), ("reference", dtype), ("reference", torch.float64))
    params = [torch.nn.Parameter(start.to(kind, copy=True)) for _, kind in kinds]
    optimizers = [cls([p], **options, clip=10.0, backend=where) for p, (where, _) in zip(params, kinds)]
    for step in range(STEPS):
        value = gradients(step).to(dtype)
        for param, optimizer in zip(params, optimizers):
            param.grad = value.to(param.dtype)
            optimizer.step()
    tested, copied, exact = (p.detach().double() for p in params)
    assert not same_bits(exact, start.double())
    scale = float(exact.abs().max())
    allowed = 2 * float((copied - exact).abs().max()) / scale + 2 * torch.finfo(dtype).eps
    assert float((tested - exact).abs().max()) / scale <= allowed
