"""Shared numbers that were written by hand and do not fit: refused in words, before a step writes anything."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import torchclip
from builders import draw_gradients, leaves, unchanged
from records import BACKENDS
from torchclip.backends import choice
from torchclip.rules.soft_threshold import THRESHOLD_SCALE
from torchclip.state.group_state import NAMES

Recipe = tuple[type[torch.optim.Optimizer], dict[str, Any], tuple[str, ...]]
DRAWS = [torchclip.GradientDropout(0.5)]
RECIPES: dict[str, Recipe] = {
    "draws": (torchclip.SGD, {"extensions": DRAWS}, ("step", "seed")),
    "ada_loss": (torchclip.SGD, {"step_size": torchclip.AdaLossStep()}, ("b_squared",)),
    "polyak": (torchclip.SGD, {"step_size": torchclip.PolyakStep(growth=2.0)}, ("polyak_step",)),
    "auto_clip": (torchclip.SGD, {"clip": torchclip.AutoClip(window=4)}, ("norm_window", "norm_count")),
    "z_clip": (torchclip.SGD, {"clip": torchclip.ZClip()}, ("norm_mean", "norm_variance", "norm_count")),
    "ada_gc": (torchclip.SGD, {"clip": torchclip.AdaGC()}, ("norm_bounds", "norm_count")),
    "skip_norms": (
        torchclip.SGD,
        {"skip": torchclip.SkipSpikes(window=4, on="grad_norm")},
        ("skip_norms", "skip_norm_count"),
    ),
    "skip_losses": (
        torchclip.SGD,
        {"skip": torchclip.SkipSpikes(window=4, on="loss")},
        ("skip_losses", "skip_loss_count"),
    ),
    "skip_both": (  # of which one is written down before the other
        torchclip.SGD,
        {"skip": torchclip.SkipSpikes(window=4)},
        ("skip_losses", "skip_loss_count"),
    ),
    "steered": (
        torchclip.LinBreg,
        {"lam": 0.1, "target_sparsity": 0.5, "skip": torchclip.SkipSpikes(window=4, on="grad_norm")},
        (THRESHOLD_SCALE,),
    ),
    "sums": (torchclip.AdaGradNorm, {}, ("sum",)),
}

Damage = tuple[Callable[[Tensor], Any], type[Exception], str]
KINDS: dict[str, Damage] = {
    "missing": (lambda held: None, RuntimeError, 'has no tensor "{name}"; it is state of the optimizer'),
    "number": (lambda held: 1.0, RuntimeError, 'has no tensor "{name}"; it is state of the optimizer'),
    "float32": (lambda held: held.float(), RuntimeError, 'number "{name}" is a tensor of torch.float32 of shape'),
    "too_many": (
        lambda held: torch.ones(7, dtype=held.dtype),
        RuntimeError,
        'number "{name}" is a tensor of {dtype} of shape [7] on cpu, where {count} of {dtype} on cpu are wanted',
    ),
    "meta": (
        lambda held: held.to("meta"),
        RuntimeError,
        'number "{name}" is a tensor of {dtype} of shape {shape} on meta, where {count} of {dtype} on cpu are wanted',
    ),
    "another_shape": (
        lambda held: held[None],
        RuntimeError,
        'number "{name}" is a tensor of {dtype} of shape [1{also}] on cpu, where {count} of {dtype} on cpu are wanted, '
        "of shape {shape}",
    ),
    "nan": (
        lambda held: held.fill_(math.nan),
        ValueError,
        'number "{name}" is nan, and a whole number from 0 to 2**53 is wanted',
    ),
    "negative": (
        lambda held: held.fill_(-1.0),
        ValueError,
        'number "{name}" is -1.0, and a whole number from 0 to 2**53 is wanted',
    ),
}
COUNTS = ("step", "norm_count", "skip_norm_count", "skip_loss_count")
ON_DEVICE = [
    (recipe, name, "another_shape")
    for recipe, name in (("ada_loss", "b_squared"), ("skip_both", "skip_losses"), ("steered", THRESHOLD_SCALE))
]
"""What the backends of a GPU find out too, which read numbers and shapes in one place."""
ON_HOST = [
    (recipe, name, kind)
    for recipe, (_, _, names) in RECIPES.items()
    for name in names
    for kind in KINDS
    if name in COUNTS or kind not in ("nan", "negative")  # of other numbers no step checks the value
    if (name, kind) != ("norm_bounds", "too_many")  # they are made to fit the parameters
    if (name, kind) != (THRESHOLD_SCALE, "missing")  # a group that was given its target since has none yet
]
CASES = [
    pytest.param(backend, *case, id=f"{backend}-{'-'.join(case)}")
    for backend in BACKENDS
    for case in (ON_DEVICE if backend in choice.ON_DEVICE else ON_HOST)
]


def test_every_number_is_damaged() -> None:
    assert {name for _, _, names in RECIPES.values() for name in names} == NAMES


@pytest.mark.parametrize("backend, recipe, name, kind", CASES, indirect=["backend"])
def test_a_damaged_number_is_refused(recipe: str, name: str, kind: str, backend: str) -> None:
    cls, options, _ = RECIPES[recipe]
    if cls is torchclip.SGD:
        options = {"momentum": 0.9, **options}
    params = leaves()
    optimizer = cls(params, lr=0.1, backend=backend, **options)
    draw_gradients(0, params)
    given = {"loss": 1.0} if optimizer._modifiers.takes_loss else {}
    optimizer.step(**given)
    damage, error, words = KINDS[kind]
    shared = optimizer.param_groups[0]["shared"]
    with unchanged(optimizer):
        kept = shared.pop(name)
        damaged = damage(kept.clone())
        if damaged is not None:
            shared[name] = damaged
        with pytest.raises(error) as raised:
            optimizer.step(**given)
        shared[name] = kept
    shape = list(kept.shape)
    also = "".join(f", {size}" for size in shape)
    words = words.format(name=name, dtype=kept.dtype, count=kept.numel(), shape=shape, also=also)
    assert words in str(raised.value)
    assert "do not assign to it" in str(raised.value)
    optimizer.step(**given)  # as it was made it is taken


@pytest.mark.usefixtures("forget_graphs")
@pytest.mark.parametrize("name, value", [(THRESHOLD_SCALE, math.nan), ("step", -1.0)])
@pytest.mark.parametrize("backend", ["reference", "cpu"], indirect=True)
def test_a_compiled_step_refuses_it_too(name: str, value: float, backend: str) -> None:
    params = leaves(1)
    options = {"lam": 0.1, "target_sparsity": 0.5} if name == THRESHOLD_SCALE else {"extensions": DRAWS}
    cls = torchclip.LinBreg if name == THRESHOLD_SCALE else torchclip.SGD
    optimizer = cls(params, lr=0.1, backend=backend, **options)
    draw_gradients(0, params)
    step = torch.compile(optimizer.step, backend="eager")
    for _ in range(2):
        step()
    held = optimizer.param_groups[0]["shared"][name]
    kept = held.clone()
    with unchanged(optimizer):
        held.fill_(value)
        words = f'number "?{name}"? .* (above 0|to 2..53).*; it is state'
        with pytest.raises((RuntimeError, ValueError), match=words) as refused:
            step()
        # torch's default compiler writes it into C++ as it is.
        assert backend != "reference" or not set('"\\') & set(str(refused.value))
        held.copy_(kept)
    step()
