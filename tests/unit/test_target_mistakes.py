"""Targets and thresholds that cannot be steered, and factors that a user broke: each is an error in words."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import torchclip

RULES: dict[str, Any] = {
    "GRDA": lambda params, **options: torchclip.GRDA(params, **{"lr": 0.1, "c": 0.1, **options}),
    "LinBreg": lambda params, **options: torchclip.LinBreg(params, **{"lr": 0.1, "lam": 0.1, **options}),
    "AdaBreg": lambda params, **options: torchclip.AdaBreg(params, **{"lr": 0.1, "lam": 0.1, **options}),
}


def weights() -> list[torch.nn.Parameter]:
    """Three, with gradients."""
    params = [torch.nn.Parameter(torch.linspace(-1, 1, 20 + i)) for i in range(3)]
    for parameter in params:
        parameter.grad = parameter.detach().clone()
    return params


@pytest.mark.parametrize("name", RULES)
def test_a_groups_own_target_needs_a_threshold(name: str, backend: str) -> None:
    first, second, third = weights()
    key = "c" if name == "GRDA" else "lam"
    groups = [{"params": [first]}, {"params": [second], key: 0, "target_sparsity": 0.5}]
    with pytest.raises(ValueError, match=rf"target_sparsity=0\.5 .* {key}=0 makes none: .* \(param group 1\)"):
        RULES[name](groups, backend=backend)
    optimizer = RULES[name]([{"params": [first]}, {"params": [second], key: 0}], target_sparsity=0.5, backend=backend)
    with pytest.raises(ValueError, match=rf"{key}=0 makes none: .* \(param group 2\)"):
        optimizer.add_param_group({"params": [third], key: 0, "target_sparsity": 0.25})
    assert len(optimizer.param_groups) == 2
    optimizer.step()  # the target of all says nothing of a group that has no threshold


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("is_own", [False, True], ids=["constructor", "group"])
def test_a_value_that_is_wrong_by_itself_is_told_first(name: str, is_own: bool) -> None:
    key = "c" if name == "GRDA" else "lam"
    wrong: tuple[tuple[dict[str, Any], str], ...] = (
        ({"target_sparsity": 0.5, key: torch.zeros(2)}, "Invalid .*, and a Tensor came: give each param group a n"),
        ({"target_sparsity": "x", key: 0}, "target_sparsity='x' is text"),
        ({"target_sparsity": 1.0, key: 0}, "Invalid target_sparsity value: 1.0; it must be at least 0 and below 1"),
    )
    for values, words in wrong:
        with pytest.raises(ValueError, match=words):
            RULES[name]([{"params": weights(), **(values if is_own else {})}], **({} if is_own else values))


@pytest.mark.parametrize("where", ["constructor", "group", "between_steps"])
def test_a_target_of_none_is_told_the_remedy(where: str, backend: str) -> None:
    params = weights()
    own = {"target_sparsity": None} if where == "group" else {}
    default = {"target_sparsity": 0.5} if where != "constructor" else {"target_sparsity": None}

    def run() -> None:
        optimizer = torchclip.LinBreg([{"params": params, **own}], lr=0.1, lam=0.1, **default, backend=backend)
        optimizer.step()
        optimizer.param_groups[0].update({"target_sparsity": None} if where == "between_steps" else {})
        optimizer.step()

    if where == "constructor":  # which has no target then
        return run()
    with pytest.raises(ValueError, match="target_sparsity value: None; .*: a group without a target has no such key"):
        run()


WRITTEN: dict[str, tuple[Any, type[Exception], str]] = {
    "negative": (-1.0, ValueError, "is -1.0, and a finite number above 0 is wanted"),
    "zero": (0.0, ValueError, "is 0.0, and a finite number above 0 is wanted"),
    "nan": (math.nan, ValueError, "is nan, and a finite number above 0 is wanted"),
    "infinite": (math.inf, ValueError, "is inf, and a finite number above 0 is wanted"),
    "float32": (torch.tensor(1.0), RuntimeError, r"of torch\.float32 of shape \[\] on cpu, where 1 of torch\.float64"),
    "two": (
        torch.ones(2, dtype=torch.float64),
        RuntimeError,
        r"of shape \[2\] on cpu, where 1 of torch\.float64 on cpu",
    ),
    "text": ("1", RuntimeError, 'has no tensor "threshold_scale"'),
}


@pytest.mark.parametrize("name", WRITTEN)
@pytest.mark.parametrize("backend", ["reference", "cpu"], indirect=True)
def test_a_scale_that_a_user_broke_is_refused_alike(name: str, backend: str) -> None:
    value, exception, words = WRITTEN[name]
    params = weights()
    optimizer = torchclip.LinBreg(params, lr=0.1, lam=0.1, target_sparsity=0.5, backend=backend)
    optimizer.step()
    shared, before = optimizer.param_groups[0]["shared"], [p.detach().clone() for p in params]
    kept = shared["threshold_scale"]
    shared["threshold_scale"] = torch.tensor(value, dtype=torch.float64) if isinstance(value, float) else value
    for _ in range(2):
        with pytest.raises(exception, match=words + ".*do not assign to it"):
            optimizer.step()
    torch.testing.assert_close([p.detach() for p in params], before, rtol=0, atol=0)
    shared["threshold_scale"] = kept
    optimizer.step()
