"""AutoClip's percentile over long windows, over norms of which many are the same; norms that no policy remembers."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

import torchclip
from records import BACKENDS

EPS = 1e-6
"""What torch.nn.utils.clip_grad_norm_ adds to a norm."""

# The length, and how many norms came before: a ring that is not full, one that is, and the longest there may be.
WINDOWS = {"growing": (700, 641), "full": (700, 2_113), "longest": (1_024, 5_000)}
NORMS = {
    "distinct": lambda count: np.random.default_rng(0).permutation(count) / 64 + 1.0,
    "ties": lambda count: np.random.default_rng(1).integers(1, 12, count) * 1.0,
    "equal": lambda count: np.full(count, 3.0),
}


BOUNDS = ((0.0, 11.0), (37.3, 11.0), (90.0, 12.5), (100.0, 3.0))
"""Percentiles, and the new norm."""

# Triton is interpreted, in which such a step takes a second: the longest window stands for all, of norms whose ranks
# may stand anywhere, and of ties.
CASES = [
    pytest.param(*WINDOWS[window], norms, BOUNDS[1:3] if backend == "triton" else BOUNDS, backend, id="-".join(name))
    for name in itertools.product(WINDOWS, NORMS, BACKENDS)
    for window, norms, backend in [name]
    if backend != "triton" or (window == "longest" and norms != "equal")
]


@pytest.mark.parametrize("window, count, norms, bounds, backend", CASES, indirect=["backend"])
def test_percentile_of_a_long_window(
    window: int, count: int, norms: str, bounds: tuple[tuple[float, float], ...], backend: str
) -> None:
    """As numpy's, of the norms remembered and the new one, which takes the place of the oldest."""
    remembered = np.zeros(window)
    used = min(window, count)
    remembered[:used] = NORMS[norms](used)
    for percentile, norm in bounds:
        param = torch.nn.Parameter(torch.zeros(4))
        policy = torchclip.AutoClip(percentile, window=window)
        optimizer = torchclip.SGD([param], lr=1.0, clip=policy, backend=backend)
        shared = optimizer.param_groups[0]["shared"]
        shared["norm_window"].copy_(torch.tensor(remembered))
        shared["norm_count"].fill_(count)
        param.grad = torch.full((4,), norm / 2)
        optimizer.step()
        expected = remembered.copy()
        expected[count % window] = norm
        assert shared["norm_window"].tolist() == expected.tolist()
        assert float(shared["norm_count"]) == count + 1
        bound = np.percentile(expected[: min(count + 1, window)], percentile)
        factor = min(1.0, bound / (norm + EPS))
        assert float(optimizer.clip_factor) == pytest.approx(factor, rel=1e-6), percentile
        assert param.tolist() == pytest.approx([-factor * norm / 2] * 4, rel=1e-6)


POLICIES = {
    "auto_clip": lambda: torchclip.AutoClip(50.0, window=3),
    "z_clip": lambda: torchclip.ZClip(warmup_steps=2, z_threshold=0.1),
}


@pytest.mark.parametrize("name", POLICIES)
def test_norm_of_zero_is_not_remembered(name: str, backend: str) -> None:
    """As of the step that torch.distributed.checkpoint takes to have state made: before the first, and later."""
    params = [torch.nn.Parameter(torch.zeros(2)) for _ in range(2)]
    zeros, ours = (torchclip.SGD([param], lr=1.0, clip=POLICIES[name](), backend=backend) for param in params)
    for norm in (0.0, 2.0, 0.0, 3.0, 9.0, 0.0, 4.0):
        params[0].grad = torch.tensor([norm, 0.0])
        params[1].grad = torch.tensor([norm, 0.0])
        zeros.step()
        if norm == 0:
            assert float(zeros.clip_factor) == 1.0
            continue
        ours.step()
        assert torch.equal(*params)
    for key, value in ours.param_groups[0]["shared"].items():
        assert torch.equal(value, zeros.param_groups[0]["shared"][key]), key
