"""What stands around the rule, and AdaGradNorm's sums, in checkpoints and copies: training goes on bit by bit."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch

import torchclip
from builders import assert_same_params, copies_of, draw_gradients, leaves
from memory_guard import same_bits
from torchclip import (
    AdaLossStep,
    AdaptiveGradientClip,
    AutoClip,
    GradientDropout,
    GradientNoise,
    Lookahead,
    LRDropout,
    SqrtDecay,
    ZClip,
)

Options = dict[str, Any]
AVERAGED = {"lr": 1.0, "momentum": 0.9, "b0": 0.5}

# Saved after SAVED_AFTER steps: inside a round of Lookahead, of AutoClip's ring and of ZClip's warm-up.
SAVED_AFTER, STEPS = 5, 11
PARTS: dict[str, tuple[type[torch.optim.Optimizer], Options]] = {
    "everything": (
        torchclip.AdamW,
        {
            "lr": 0.1,
            "clip": ZClip(alpha=0.5, z_threshold=0.5, warmup_steps=7),
            "step_size": AdaLossStep(),
            "extensions": (Lookahead(k=4), LRDropout(0.5), GradientDropout(0.1), GradientNoise()),
        },
    ),
    "auto_ring": (torchclip.SGD, {"lr": 0.1, "clip": AutoClip(40.0, window=3)}),
    **{
        f"ada_grad_norm_{scope}": (torchclip.AdaGradNorm, {**AVERAGED, "scope": scope})
        for scope in ("row", "optimizer", "group", "tensor")
    },
    "lookahead": (torchclip.SGD, {"lr": 0.1, "momentum": 0.9, "extensions": (Lookahead(k=3),)}),
    "noise": (torchclip.SGD, {"lr": 0.1, "extensions": (GradientNoise(),)}),
    "gradient_dropout": (torchclip.AdamW, {"lr": 0.1, "extensions": (GradientDropout(0.3),)}),
    "lr_dropout": (torchclip.MixClip, {"lr": 0.1, "gamma": 1.0, "extensions": (LRDropout(0.5),)}),
    "ada_loss_step": (torchclip.RMSprop, {"lr": 0.1, "step_size": AdaLossStep()}),
    "ada_loss": (torchclip.AdaLoss, {"lr": 0.1, "momentum": 0.9}),
    "sqrt_decay": (torchclip.Adagrad, {"lr": 0.1, "step_size": SqrtDecay()}),
    "adaptive": (torchclip.SGD, {"lr": 0.1, "momentum": 0.9, "clip": AdaptiveGradientClip(0.1)}),
    "auto_growing": (torchclip.SGD, {"lr": 0.1, "clip": AutoClip(40.0)}),
    "z_warm_up": (torchclip.SGD, {"lr": 0.1, "clip": ZClip(warmup_steps=8)}),
    "z": (torchclip.SGD, {"lr": 0.1, "clip": ZClip(alpha=0.5, z_threshold=0.5, warmup_steps=2)}),
}
each_part = pytest.mark.parametrize("name", PARTS)


def build(name: str, params: list[torch.nn.Parameter], backend: str, **options: Any) -> torch.optim.Optimizer:
    """Over two groups."""
    cls, defaults = PARTS[name]
    groups = [{"params": params[:2]}, {"params": params[2:], "lr": 0.05}]
    return cls(groups, **{**defaults, "seed": 4, **options}, backend=backend)


def train(optimizer: torch.optim.Optimizer, steps: range) -> None:
    """Steps with gradients of changing size; a parameter lacks one now and then."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    for step in steps:
        draw_gradients(step, params)
        for p in params:
            p.grad.mul_(1.0 + step * 7 % 5)
        if step % 4 == 1:
            params[1].grad = None
        optimizer.step(loss=1.0 + step % 3)


def assert_same(one: torch.optim.Optimizer, other: torch.optim.Optimizer) -> None:
    """Equal bits of parameters, state and shared numbers."""
    for group, its in zip(one.param_groups, other.param_groups):
        assert_same_params(group["params"], its["params"])
        for p, q in zip(group["params"], its["params"]):
            mine, theirs = one.state[p], other.state[q]
            assert mine.keys() == theirs.keys() and all(same_bits(mine[key], theirs[key]) for key in mine)
        shared, theirs = group.get("shared", {}), its.get("shared", {})
        assert shared.keys() == theirs.keys() and all(same_bits(shared[key], theirs[key]) for key in shared)


def saved_and_loaded(name: str, optimizer: torch.optim.Optimizer, backend: str) -> torch.optim.Optimizer:
    """Another process: a new model from a file, an optimizer with another seed, and its state from a file."""
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    params = copies_of([p for group in optimizer.param_groups for p in group["params"]])
    fresh = build(name, params, backend, seed=5)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    return fresh


ROUTES: dict[str, Callable[[str, torch.optim.Optimizer, str], torch.optim.Optimizer]] = {
    "torch_save": saved_and_loaded,
    "deepcopy": lambda name, optimizer, backend: copy.deepcopy(optimizer),
    "pickle": lambda name, optimizer, backend: pickle.loads(pickle.dumps(optimizer)),
}


@pytest.mark.parametrize("route", ROUTES.values(), ids=ROUTES)
@each_part
def test_training_resumes_bitwise(name: str, route: Callable[..., torch.optim.Optimizer], backend: str) -> None:
    optimizer = build(name, leaves(4), backend)
    train(optimizer, range(SAVED_AFTER))
    twin = route(name, optimizer, backend)
    assert (twin.clip, twin.step_size, twin.extensions) == (optimizer.clip, optimizer.step_size, optimizer.extensions)
    assert twin.backend == backend
    assert_same(optimizer, twin)
    before = [p.detach().clone() for p in optimizer.param_groups[0]["params"]]
    train(optimizer, range(SAVED_AFTER, STEPS))
    assert_same_params(twin.param_groups[0]["params"], before)  # the two share nothing
    train(twin, range(SAVED_AFTER, STEPS))
    assert_same(optimizer, twin)


@each_part
def test_a_checkpoint_goes_on_with_another_backend(name: str, backend: str) -> None:
    optimizer = build(name, leaves(4), "reference")
    train(optimizer, range(SAVED_AFTER))
    twin = saved_and_loaded(name, optimizer, backend)
    assert_same(optimizer, twin)
    train(optimizer, range(SAVED_AFTER, STEPS))
    train(twin, range(SAVED_AFTER, STEPS))
    for group, its in zip(optimizer.param_groups, twin.param_groups):
        for p, q in zip(group["params"], its["params"]):
            torch.testing.assert_close(p.detach(), q.detach())
            torch.testing.assert_close(dict(optimizer.state[p]), dict(twin.state[q]))
        torch.testing.assert_close(group.get("shared", {}), its.get("shared", {}), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", ["lookahead", "everything", "ada_grad_norm_tensor", "ada_grad_norm_row"])
def test_state_beside_other_types_resumes_bitwise(name: str, dtype: torch.dtype, backend: str) -> None:
    """Slow weights and sums are float32 beside half precision, where torch would cast them on loading."""
    optimizer = build(name, [torch.nn.Parameter(p.detach().to(dtype)) for p in leaves(4)], backend)
    train(optimizer, range(SAVED_AFTER))
    for p, state in optimizer.state.items():
        for key in {"slow", "sum"} & state.keys():
            assert state[key].dtype == torch.promote_types(p.dtype, torch.float32)
    twin = saved_and_loaded(name, optimizer, backend)
    assert_same(optimizer, twin)
    train(optimizer, range(SAVED_AFTER, STEPS))
    train(twin, range(SAVED_AFTER, STEPS))
    assert_same(optimizer, twin)


EXTENDED: Options = {
    "clip": AutoClip(50.0, window=4),
    "step_size": AdaLossStep(b0=2.0),
    "extensions": (GradientDropout(0.3), Lookahead(k=2)),
}


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_a_checkpoint_of_torch_starts_what_it_lacks(name: str, backend: str) -> None:
    params = leaves()
    theirs = getattr(torch.optim, name)(params, lr=0.1)
    for step in range(3):
        draw_gradients(step, params)
        theirs.step()
    ours = getattr(torchclip, name)(params, lr=7.0, **EXTENDED, seed=6, backend=backend)
    for _ in range(2):  # before the first step, and in mid-run
        ours.load_state_dict(copy.deepcopy(theirs.state_dict()))
        shared = {key: value.tolist() for key, value in ours.param_groups[0]["shared"].items()}
        assert shared == {"step": 0.0, "seed": 6, "b_squared": 4.0, "norm_window": [0.0] * 4, "norm_count": 0.0}
        fresh_params = copies_of(params)
        fresh = getattr(torchclip, name)(fresh_params, lr=0.1, **EXTENDED, seed=6, backend=backend)
        fresh.load_state_dict(copy.deepcopy(theirs.state_dict()))
        for step in range(3, 6):
            draw_gradients(step, params, fresh_params)
            ours.step(loss=1.0)
            fresh.step(loss=1.0)
        assert_same(ours, fresh)


def test_a_checkpoint_with_more_and_with_less(backend: str) -> None:
    """What an optimizer does not use it drops, and what it misses it starts."""
    params = leaves()
    extended = torchclip.SGD(params, lr=0.1, momentum=0.9, **EXTENDED, seed=6, backend=backend)
    plain = torchclip.SGD(params, lr=0.1, momentum=0.9, backend=backend)
    for step in range(3):
        draw_gradients(step, params)
        extended.step(loss=1.0)
    plain.load_state_dict(copy.deepcopy(extended.state_dict()))
    assert not any("shared" in group for group in plain.param_groups)
    plain.step()
    noisy = torchclip.SGD(params, lr=0.1, momentum=0.9, extensions=(GradientNoise(),), seed=9, backend=backend)
    noisy.load_state_dict(copy.deepcopy(extended.state_dict()))
    assert {key: int(value) for key, value in noisy.param_groups[0]["shared"].items()} == {"step": 3, "seed": 6}
    noisy.step()
    noisy.load_state_dict(copy.deepcopy(plain.state_dict()))
    assert {key: int(value) for key, value in noisy.param_groups[0]["shared"].items()} == {"step": 0, "seed": 9}
    noisy.step()
    theirs = torch.optim.SGD(copies_of(params), lr=0.1, momentum=0.9)
    theirs.load_state_dict(copy.deepcopy(extended.state_dict()))
    theirs.step()
