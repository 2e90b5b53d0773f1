"""A clip policy that is assigned in mid-run: whose memory goes on, and whose starts."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import torchclip
from builders import draw_gradients, leaves
from torchclip import (
    AdaLossStep,
    AdaptiveGradientClip,
    AutoClip,
    GradientDropout,
    Lookahead,
    ZClip,
)


def shared_of(optimizer: torch.optim.Optimizer) -> dict[str, list[float] | float]:
    return {key: value.tolist() for key, value in optimizer.param_groups[0].get("shared", {}).items()}


@pytest.mark.parametrize(
    "name, value",
    [
        ("precision", torchclip.SplitMaster()),
        ("step_size", AdaLossStep()),
        ("skip", torchclip.SkipSpikes()),
        ("extensions", (Lookahead(),)),
        ("backend", "reference"),
    ],
)
def test_what_the_constructor_is_given_is_not_assigned(name: str, value: Any) -> None:
    optimizer = torchclip.SGD([torch.nn.Parameter(torch.ones(4))], lr=0.1)
    before = getattr(optimizer, name)
    with pytest.raises(AttributeError, match=f"^{name} is given to the constructor, .* anew with {name}=.*state_dict"):
        setattr(optimizer, name, value)
    assert getattr(optimizer, name) == before


def test_a_new_policy_starts_its_memory(backend: str) -> None:
    param = torch.nn.Parameter(torch.ones(4))
    optimizer = torchclip.SGD([param], lr=0.0, clip=AutoClip(50.0, window=3), backend=backend)

    def step(gradient: float) -> None:
        param.grad = torch.full((4,), gradient)
        optimizer.step()

    for gradient in (1.0, 2.0, 3.0, 4.0):
        step(gradient)
    assert shared_of(optimizer) == {"norm_window": [8.0, 4.0, 6.0], "norm_count": 4.0}
    assert float(optimizer.clip_factor) == pytest.approx(6.0 / 8.0, rel=1e-6)
    optimizer.clip = AutoClip(50.0, window=3)  # the same: it goes on
    step(0.5)
    assert shared_of(optimizer) == {"norm_window": [8.0, 1.0, 6.0], "norm_count": 5.0}
    optimizer.clip = AutoClip(100.0, window=3)  # another, of the same size
    assert shared_of(optimizer) == {"norm_window": [0.0] * 3, "norm_count": 0.0}
    step(5.0)
    assert shared_of(optimizer) == {"norm_window": [10.0, 0.0, 0.0], "norm_count": 1.0}
    optimizer.clip = ZClip(warmup_steps=2)
    assert shared_of(optimizer) == {"norm_mean": 0.0, "norm_variance": 0.0, "norm_count": 0.0}
    step(1.0)
    step(2.0)
    assert shared_of(optimizer) == {"norm_mean": 3.0, "norm_variance": 1.0, "norm_count": 2.0}
    optimizer.clip = AutoClip(0.0, window=2)
    step(1.0)
    step(2.0)
    assert shared_of(optimizer) == {"norm_window": [2.0, 4.0], "norm_count": 2.0}
    assert float(optimizer.clip_factor) == pytest.approx(0.5, rel=1e-6)
    for policy in (None, 1.0, AdaptiveGradientClip(), torchclip.ClipByValue(1.0)):
        optimizer.clip = policy
        assert shared_of(optimizer) == {}
        step(1.0)


def test_a_new_policy_leaves_the_other_numbers(backend: str) -> None:
    options: dict[str, Any] = {
        "clip": AutoClip(50.0, window=4),
        "step_size": AdaLossStep(b0=2.0),
        "extensions": (GradientDropout(0.3), Lookahead(k=2)),
    }
    params = leaves()
    optimizer = torchclip.AdaGradNorm(params, lr=1.0, **options, seed=6, backend=backend)
    for step in range(3):
        draw_gradients(step, params)
        optimizer.step(loss=1.0)
    before = {key: value for key, value in shared_of(optimizer).items() if not key.startswith("norm_")}
    optimizer.clip = None
    assert shared_of(optimizer) == before and before.keys() == {"step", "seed", "b_squared", "sum"}
    optimizer.step(loss=1.0)
    assert shared_of(optimizer)["step"] == 4.0


@pytest.mark.parametrize("policy", [AutoClip(50.0, window=3), ZClip(warmup_steps=2)], ids=["auto", "z"])
def test_a_gradient_without_elements_has_no_norm_to_remember(policy: AutoClip | ZClip, backend: str) -> None:
    params = [torch.nn.Parameter(torch.ones(0)), torch.nn.Parameter(torch.ones(4))]
    optimizer = torchclip.SGD(params, lr=0.0, clip=policy, backend=backend)
    params[0].grad = torch.zeros(0)
    optimizer.step()
    assert shared_of(optimizer)["norm_count"] == 0.0
    params[0].grad, params[1].grad = None, torch.ones(4)
    optimizer.step()
    assert shared_of(optimizer)["norm_count"] == 1.0


def test_repr_shows_the_policies_and_no_numbers_of_state() -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    extensions = (torchclip.GradientNoise(), torchclip.Lookahead(k=3))
    optimizer = torchclip.SGD([weight], lr=0.1, clip=torchclip.AutoClip(25), extensions=extensions, seed=1)
    text = repr(optimizer)
    assert "clip: AutoClip(percentile=25" in text and "Lookahead(k=3" in text and "lr: 0.1" in text
    assert "shared" not in text and "step_size" not in text
    ours, torchs = (repr(cls([weight], lr=0.1)).split("\n") for cls in (torchclip.SGD, torch.optim.SGD))
    assert set(torchs) <= set(ours)
