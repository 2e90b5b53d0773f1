"""Param groups without parameters: what takes its device or its type from the first parameter looks at all groups."""

from __future__ import annotations

import pytest
import torch

import torchclip


def test_an_empty_first_group(backend: str) -> None:
    params = [torch.nn.Parameter(torch.zeros(1))]
    groups = [{"params": []}, {"params": params}]
    optimizer = torchclip.AdaLoss(groups, lr=1.0, b0=1.0, clip=torchclip.AutoClip(), backend=backend)
    params[0].grad = torch.tensor([4.0])
    optimizer.step(loss=torch.tensor(3.0))
    assert float(params[0]) == pytest.approx(-2.0, rel=1e-5)
    assert (float(optimizer.grad_norm), float(optimizer.clip_factor)) == pytest.approx((4.0, 1.0), rel=1e-5)
    metrics = optimizer.metrics()
    assert (float(metrics["lr_scale"]), float(metrics["sparsity"])) == (0.5, 0.0)
    optimizer.step(loss=5.0)


def test_no_parameters_at_all(backend: str) -> None:
    optimizer = torchclip.AdaLoss([{"params": []}], lr=1.0, backend=backend)
    optimizer.step(loss=1.0)
    assert float(optimizer.metrics()["sparsity"]) == 0.0
