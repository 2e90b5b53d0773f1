"""Checkpoints between every pair of clip policies: another's memory of past norms is taken whole, or not at all."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch

import torchclip
from builders import assert_same_params, copies_of
from torchclip import AdaGC, AdaptiveGradientClip, AutoClip, ClipByGlobalNorm, ClipByValue, ZClip

POLICIES: dict[str, Any] = {
    "none": None,
    "norm": ClipByGlobalNorm(1.0),
    "value": ClipByValue(1.0),
    "units": AdaptiveGradientClip(),
    "auto_3": AutoClip(50.0, window=3),
    "auto_3_other": AutoClip(90.0, window=3),
    "auto_8": AutoClip(50.0, window=8),
    "z": ZClip(warmup_steps=4),
    "z_short": ZClip(alpha=0.5, z_threshold=1.0, warmup_steps=2),
    "ada_gc": AdaGC(warmup_steps=3),
}

REMEMBERS = {
    "auto_3": "auto 3",
    "auto_3_other": "auto 3",
    "auto_8": "auto 8",
    "z": "z",
    "z_short": "z",
    "ada_gc": "ada_gc",
}
"""What kind of memory a policy has; those of one kind read one another's."""

NEW = {
    "auto 3": {"norm_window": [0.0] * 3, "norm_count": 0.0},
    "auto 8": {"norm_window": [0.0] * 8, "norm_count": 0.0},
    "z": {"norm_mean": 0.0, "norm_variance": 0.0, "norm_count": 0.0},
    "ada_gc": {"norm_bounds": [0.0], "norm_count": 0.0},
}


def remembered(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """As numbers."""
    shared = optimizer.param_groups[0].get("shared", {})
    return {name: value.tolist() for name, value in shared.items() if name.startswith("norm_")}


def step(optimizer: torch.optim.Optimizer, size: float) -> None:
    """On a gradient of that norm."""
    (param,) = optimizer.param_groups[0]["params"]
    param.grad = torch.full_like(param, size / 2)
    optimizer.step()


@pytest.mark.parametrize("target", POLICIES)
@pytest.mark.parametrize("source", POLICIES)
def test_a_checkpoint_under_another_policy(source: str, target: str, backend: str) -> None:
    """With one warning where a memory is dropped for another, it goes on as under a policy that has just begun."""
    param = torch.nn.Parameter(torch.ones(4))
    first = torchclip.SGD([param], lr=0.1, clip=POLICIES[source], backend=backend)
    for size in (1.0, 2.0, 3.0, 4.0, 5.0):
        step(first, size)
    saved = copy.deepcopy(first.state_dict())
    second, third = (
        torchclip.SGD(copies_of([param]), lr=0.1, clip=POLICIES[target], backend=backend) for _ in range(2)
    )
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        second.load_state_dict(saved)
        second.load_state_dict(second.state_dict())
    kinds = REMEMBERS.get(source), REMEMBERS.get(target)
    drops = None not in kinds and kinds[0] != kinds[1]
    assert [str(one.message)[:12] for one in warned] == ["what was rem"] * drops
    expected = NEW.get(kinds[1], {}) if kinds[0] != kinds[1] else remembered(first)
    assert remembered(second) == expected
    if kinds[0] != kinds[1] or source == target:
        twin = first if source == target else third
        for size in (6.0, 1.0, 9.0, 2.0):
            step(second, size)
            step(twin, size)
            assert torch.isfinite(second.param_groups[0]["params"][0]).all()
            assert remembered(second) == remembered(twin)
        assert_same_params(second.param_groups[0]["params"], twin.param_groups[0]["params"])


def test_training_goes_on_under_a_wider_window(backend: str) -> None:
    """The median of one norm is that norm: the factor is 1, and not 0 until 179 more have been seen."""
    param = torch.nn.Parameter(torch.zeros(4))
    first = torchclip.SGD([param], lr=1.0, clip=AutoClip(10.0, window=100), backend=backend)
    for _ in range(30):
        step(first, 2.0)
    second = torchclip.SGD([param], lr=1.0, clip=AutoClip(10.0, window=200), backend=backend)
    with pytest.warns(
        UserWarning, match=r"\(norm_count, norm_window\) is not what AutoClip\(percentile=10.0, window=200"
    ):
        second.load_state_dict(first.state_dict())
    before = param.detach().clone()
    step(second, 2.0)
    assert float(second.clip_factor) == pytest.approx(1.0, abs=1e-5)
    torch.testing.assert_close(param.detach(), before - 1.0)


@pytest.mark.parametrize("missing", ["norm_count", "norm_window"])
def test_a_part_of_a_memory_is_none(missing: str, backend: str) -> None:
    param = torch.nn.Parameter(torch.zeros(4))
    optimizer = torchclip.SGD([param], lr=1.0, clip=AutoClip(10.0, window=3), backend=backend)
    step(optimizer, 2.0)
    saved = copy.deepcopy(optimizer.state_dict())
    del saved["param_groups"][0]["shared"][missing]
    with pytest.warns(UserWarning, match="starts anew"):
        optimizer.load_state_dict(saved)
    assert remembered(optimizer) == NEW["auto 3"]


def test_a_checkpoint_without_any_memory_starts_one_silently(backend: str) -> None:
    params = [torch.nn.Parameter(torch.zeros(4))]
    optimizer = torchclip.SGD(params, lr=1.0, clip=ZClip(), backend=backend)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.load_state_dict(torch.optim.SGD(copies_of(params), lr=0.1).state_dict())
    assert remembered(optimizer) == NEW["z"]
