"""Checkpoints and pickles that lack what is saved today, and those with names, through a file."""

from __future__ import annotations

import copy
import io
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

import torchclip
from builders import LOSS, OPTIMIZERS, assert_same_params, build, copies_of, draw_gradients, each_optimizer, leaves
from memory_guard import same_bits

MODIFIED: dict[str, Any] = {
    "lr": 0.5,
    "clip": torchclip.ZClip(warmup_steps=8),
    "step_size": torchclip.AdaLossStep(b0=2.0),
    "extensions": (torchclip.LRDropout(0.5), torchclip.Lookahead(k=3)),
    "seed": 3,
}


def stepped(name: str, backend: str, **options: Any) -> tuple[torch.optim.Optimizer, list[torch.nn.Parameter]]:
    """An optimizer after three steps, and its parameters."""
    params = leaves()
    optimizer = build(name, params, **options, backend=backend)
    for step in range(3):
        draw_gradients(step, params)
        optimizer.step(loss=LOSS)
    return optimizer, params


def go_on(*optimizers: torch.optim.Optimizer) -> None:
    """Two more steps of each with the same gradients, after which all parameters are the same."""
    sets = [optimizer.param_groups[0]["params"] for optimizer in optimizers]
    before = [param.detach().clone() for param in sets[0]]
    for step in range(3, 5):
        draw_gradients(step, *sets)
        for optimizer in optimizers:
            optimizer.step(loss=LOSS)
    for params in sets[1:]:
        assert_same_params(params, sets[0])
    assert not any(torch.equal(param, start) for param, start in zip(sets[0], before) if param.numel() > 1)


@each_optimizer
def test_a_checkpoint_without_newer_keys(name: str, backend: str) -> None:
    """Each missing key of the param group has the default that the class has; a count of steps may be a number."""
    optimizer, params = stepped(name, backend)
    saved = copy.deepcopy(optimizer.state_dict())
    kept = ("params", "shared", "lr", *OPTIMIZERS[name][1])
    saved["param_groups"] = [{key: group[key] for key in kept if key in group} for group in saved["param_groups"]]
    for state in saved["state"].values():
        for key in {"step", "l1", "mu_product"} & state.keys():
            state[key] = state[key].item()
    again = build(name, copies_of(params), backend=backend)
    again.load_state_dict(saved)
    assert again.param_groups[0].keys() == optimizer.param_groups[0].keys()
    go_on(optimizer, again)


@pytest.mark.parametrize("missing", ["step", "seed", "b_squared", "norm_mean", "norm_variance", "norm_count"])
def test_a_checkpoint_without_a_shared_number(missing: str, backend: str) -> None:
    """It starts anew, and with a policy's count or averages all that the policy remembers; the others go on."""
    optimizer, params = stepped("sgd", backend, **MODIFIED)
    saved = copy.deepcopy(optimizer.state_dict())
    shared = saved["param_groups"][0]["shared"]
    assert shared.keys() == {"step", "seed", "b_squared", "norm_mean", "norm_variance", "norm_count"}
    del shared[missing]
    again = build("sgd", copies_of(params), **{**MODIFIED, "seed": 7}, backend=backend)
    is_remembered = missing.startswith("norm_")
    with pytest.warns(UserWarning, match="starts anew") if is_remembered else nullcontext():
        again.load_state_dict(saved)
    loaded = again.param_groups[0]["shared"]
    anew = {missing, *(key for key in loaded if is_remembered and key.startswith("norm_"))}
    assert all(same_bits(loaded[key], value) for key, value in shared.items() if key not in anew)
    assert all(float(loaded[key]) == {"seed": 7.0, "b_squared": 4.0}.get(key, 0.0) for key in anew)
    draw_gradients(3, again.param_groups[0]["params"])
    again.step(loss=LOSS)


@each_optimizer
def test_a_pickle_that_is_older_than_most_attributes(name: str, backend: str) -> None:
    """``__setstate__`` fills in what a pickle lacks: hooks, policies, keys of the param group."""
    optimizer, _ = stepped(name, backend)
    state = copy.deepcopy({key: getattr(optimizer, key) for key in ("defaults", "state", "param_groups")})
    state["defaults"].pop("differentiable", None)
    kept = ("params", "shared", "lr", *OPTIMIZERS[name][1])
    state["param_groups"] = [{key: group[key] for key in kept if key in group} for group in state["param_groups"]]
    if "clips_by" in vars(optimizer):
        state["clips_by"] = optimizer.clips_by
    if name == "ada_loss":
        state["_modifiers"] = optimizer._modifiers  # its step size, which every pickle of it has
    again = object.__new__(type(optimizer))
    again.__setstate__(state)
    assert again.clip is None and again.extensions == () and again.backend
    assert again.param_groups[0].keys() | {"differentiable"} == optimizer.param_groups[0].keys() | {"differentiable"}
    again._requested = backend  # which was no part of it
    again._forget_plan()
    go_on(optimizer, again)
    fired: list[int] = []
    again.register_step_pre_hook(lambda *_: fired.append(1))
    again.step(loss=LOSS)
    assert fired == [1] and repr(again).startswith(type(again).__name__)


def assert_equal(one: Any, other: Any) -> None:
    """Equal structures, tensors to the bit."""
    if isinstance(one, Tensor):
        assert same_bits(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key, value in one.items():
            assert_equal(value, other[key])
    elif isinstance(one, list):
        assert len(one) == len(other)
        for pair in zip(one, other):
            assert_equal(*pair)
    else:
        assert one == other


@each_optimizer
def test_what_is_loaded_is_what_was_saved(name: str, backend: str) -> None:
    optimizer, params = stepped(name, backend)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    again = build(name, copies_of(params), backend=backend)
    again.load_state_dict(saved)
    assert_equal(again.state_dict(), optimizer.state_dict())
    assert_equal(saved, optimizer.state_dict())  # loading left it as it was
    assert_equal(build(name, leaves(), backend=backend).state_dict()["state"], {})
    go_on(optimizer, again)
    assert_equal(saved, torch.load(io.BytesIO(file.getvalue()), weights_only=True))  # and shares nothing with it


@pytest.mark.parametrize("named", [(True, False), (False, True), (True, True)], ids=str)
@each_optimizer
def test_names_go_through_a_checkpoint_as_torchs_do(name: str, named: tuple[bool, bool], backend: str) -> None:
    """Those of the checkpoint where it has some, else those of the optimizer; they decide nothing."""

    def given(params: list[torch.nn.Parameter], with_names: bool, prefix: str) -> list[Any]:
        return [(f"{prefix}{i}", p) for i, p in enumerate(params)] if with_names else params

    params = leaves()
    copies = copies_of(params)
    first = build(name, given(params, named[0], "saved"), backend=backend)
    first.step(loss=LOSS)
    for p, q in zip(params, copies):
        q.data.copy_(p.detach())
    second = build(name, given(copies, named[1], "own"), backend=backend)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    expected = [f"{'saved' if named[0] else 'own'}{i}" for i in range(len(params))]
    assert second.param_groups[0]["param_names"] == expected
    go_on(first, second)
