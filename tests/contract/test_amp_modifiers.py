"""GradScaler beside clip policies, step sizes and extensions; half-precision parameters; attributes set by hand."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch

import torchclip
from builders import (
    LOSS,
    OPTIMIZERS,
    assert_no_step_was_taken,
    assert_same_params,
    build,
    copies_of,
    draw_gradients,
    each_optimizer,
    leaves,
    unchanged,
)

Options = dict[str, Any]

SCALE = 1024.0
"""A power of two: what is scaled and unscaled by it is the same to the bit."""

PARTS: dict[str, tuple[type[torch.optim.Optimizer], Options]] = {
    "noise": (torchclip.SGD, {"extensions": (torchclip.GradientNoise(),)}),
    "gradient_dropout": (torchclip.AdamW, {"extensions": (torchclip.GradientDropout(0.3),)}),
    "lr_dropout": (torchclip.SGD, {"momentum": 0.9, "extensions": (torchclip.LRDropout(0.5),)}),
    "lookahead": (torchclip.SGD, {"extensions": (torchclip.Lookahead(k=2),)}),
    "ada_loss_step": (torchclip.RMSprop, {"step_size": torchclip.AdaLossStep()}),
    "sqrt_decay": (torchclip.Adagrad, {"step_size": torchclip.SqrtDecay()}),
    "global_norm": (torchclip.AdamW, {"clip": torchclip.ClipByGlobalNorm(0.5)}),
    "smooth": (torchclip.SGD, {"clip": torchclip.ClipByGlobalNorm(0.5, smooth=True)}),
    "tensor_norm": (torchclip.SGD, {"clip": torchclip.ClipByTensorNorm(0.5)}),
    "value": (torchclip.SGD, {"clip": torchclip.ClipByValue(0.5)}),
    "adaptive": (torchclip.SGD, {"clip": torchclip.AdaptiveGradientClip(0.1)}),
    "auto": (torchclip.SGD, {"clip": torchclip.AutoClip(40.0, window=3)}),
    "z": (torchclip.SGD, {"clip": torchclip.ZClip(alpha=0.5, z_threshold=0.5, warmup_steps=2)}),
    "skip": (torchclip.SGD, {"clip": torchclip.ClipByGlobalNorm(0.5, nonfinite="skip")}),
    "error": (torchclip.SGD, {"clip": torchclip.ClipByGlobalNorm(0.5, nonfinite="error")}),
    "ada_grad_norm": (torchclip.AdaGradNorm, {"momentum": 0.9}),
    "everything": (
        torchclip.AdamW,
        {
            "clip": torchclip.AutoClip(40.0, window=3),
            "step_size": torchclip.AdaLossStep(),
            "extensions": (torchclip.GradientNoise(), torchclip.LRDropout(0.5), torchclip.Lookahead(k=3)),
        },
    ),
}
each_part = pytest.mark.parametrize("name", PARTS)


def build_part(name: str, params: list[torch.nn.Parameter], backend: str) -> torch.optim.Optimizer:
    cls, options = PARTS[name]
    return cls(params, **{"lr": 0.5, "seed": 4, **options}, backend=backend)


def scaled_gradients(
    step: int, scaled: list[torch.nn.Parameter], plain: list[torch.nn.Parameter], scale: float = SCALE
) -> None:
    """The same for both, but for the loss scale."""
    draw_gradients(step, scaled, plain)
    for param in scaled:
        param.grad.mul_(scale)


@pytest.mark.parametrize("unscale", [False, True], ids=["", "unscale_"])
@each_part
def test_scaling_changes_nothing(name: str, unscale: bool, backend: str) -> None:
    """Norms, what is remembered of them, draws and step sizes are those of the unscaled gradient; an overflow in the
    middle leaves all of it where it was, and the steps after it are those of a run that never had it."""
    params = leaves()
    copies = copies_of(params)
    scaler = torch.amp.GradScaler("cpu", init_scale=SCALE, growth_interval=100)
    scaler.scale(torch.ones(()))  # which makes the scale
    before = [param.detach().clone() for param in params]
    scaled, plain = build_part(name, params, backend), build_part(name, copies, backend)
    for step in range(4):
        if step == 2:
            draw_gradients(9, params)
            params[1].grad[3] = math.inf
            if unscale:
                scaler.unscale_(scaled)
            with unchanged(scaled):
                scaler.step(scaled, loss=LOSS)
            scaler.update()
        scaled_gradients(step, params, copies, scaler.get_scale())
        if unscale:
            scaler.unscale_(scaled)
        scaler.step(scaled, loss=LOSS)
        scaler.update()
        plain.step(loss=LOSS)
    assert_same_params(params, copies)
    assert scaler.get_scale() == SCALE / 2 and not any(map(torch.equal, params, before))
    shared, expected = (made.param_groups[0].get("shared", {}) for made in (scaled, plain))
    assert shared.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(shared[key], value, rtol=1e-12, atol=0, msg=key)


@pytest.mark.parametrize("found_inf", [1.0, 2.0, 3.0])
@each_part
def test_overflow_on_several_devices(name: str, found_inf: float, backend: str) -> None:
    """GradScaler hands over the sum of each device's 0 or 1: in a first step, and in a later one."""
    params = leaves()
    before = [param.detach().clone() for param in params]
    optimizer = build_part(name, params, backend)
    for already_stepped in (False, True):
        if already_stepped:
            optimizer.step(loss=LOSS)
        optimizer.grad_scale, optimizer.found_inf = torch.tensor(SCALE), torch.tensor(found_inf)
        with unchanged(optimizer):
            optimizer.step(loss=LOSS)
        del optimizer.grad_scale, optimizer.found_inf
    assert not any(map(torch.equal, params, before))


@pytest.mark.parametrize("as_tensor", [True, False], ids=["tensor", "number"])
@pytest.mark.parametrize("found_inf", [2.0, 3.0])
@each_optimizer
def test_overflow_on_several_devices_with_each_rule(name: str, found_inf: float, as_tensor: bool, backend: str) -> None:
    params = leaves()
    optimizer = build(name, params, backend=backend)
    optimizer.step(loss=LOSS)
    optimizer.grad_scale, optimizer.found_inf = torch.tensor(SCALE), found_inf
    if as_tensor:
        optimizer.found_inf = torch.tensor(found_inf)
    with unchanged(optimizer):
        optimizer.step(loss=LOSS)


# A number is what GradScaler hands over where no parameter has a gradient, and stands for a tensor then.
NOT_FOUND: dict[str, Any] = {"scalar": torch.tensor(0.0), "vector": torch.tensor([0.0]), "number": 0, "none": None}


@pytest.mark.parametrize("found_inf", NOT_FOUND.values(), ids=NOT_FOUND)
@each_optimizer
def test_attributes_set_by_hand(name: str, found_inf: Any, backend: str) -> None:
    for scale in (torch.tensor(SCALE), torch.tensor([SCALE]), torch.tensor(SCALE, dtype=torch.float64)):
        params = leaves()
        copies = copies_of(params)
        scaled, plain = build(name, params, clip=0.5, backend=backend), build(name, copies, clip=0.5, backend=backend)
        scaled.grad_scale, scaled.found_inf = scale, found_inf
        for step in range(2):
            scaled_gradients(step, params, copies)
            scaled.step(loss=LOSS)
            plain.step(loss=LOSS)
        assert_same_params(params, copies)
        assert float(scaled.grad_norm) == float(plain.grad_norm)


@each_optimizer
def test_no_gradients_at_all(name: str, backend: str) -> None:
    """The step is taken and is none; ``update()`` is what torch refuses then."""
    params = leaves()
    before = [param.detach().clone() for param in params]
    for param in params:
        param.grad = None
    optimizer = build(name, params, backend=backend)
    scaler = torch.amp.GradScaler("cpu", init_scale=SCALE)
    scaler.scale(torch.ones(()))
    scaler.step(optimizer, loss=LOSS)
    assert_no_step_was_taken(optimizer)
    assert all(map(torch.equal, params, before))
    with pytest.raises(AssertionError, match="No inf checks were recorded"):
        scaler.update()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@each_optimizer
def test_half_precision_parameters(name: str, dtype: torch.dtype, backend: str) -> None:
    """GradScaler refuses to unscale float16 gradients in place; within the step they are unscaled without rounding."""
    params = [torch.nn.Parameter(param.detach().to(dtype)) for param in leaves()]
    copies = copies_of(params)
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0, growth_interval=100)
    scaled, plain = build(name, params, clip=0.5, backend=backend), build(name, copies, clip=0.5, backend=backend)
    before = [param.detach().clone() for param in params]
    for step in range(2):
        draw_gradients(step, params, copies)
        for param in params:
            param.grad.mul_(64.0)
        scaler.scale(torch.ones(()))
        if dtype is torch.float16 and step == 0:
            with pytest.raises(ValueError, match="Attempting to unscale FP16 gradients"):
                scaler.unscale_(scaled)
            scaler = torch.amp.GradScaler("cpu", init_scale=64.0, growth_interval=100)
            scaler.scale(torch.ones(()))
        scaler.step(scaled, loss=LOSS)
        scaler.update()
        plain.step(loss=LOSS)
    assert_same_params(params, copies)
    assert not any(map(torch.equal, params, before))
    params[0].grad[0, 0] = math.inf
    with unchanged(scaled):
        scaler.scale(torch.ones(()))
        scaler.step(scaled, loss=LOSS)


def test_a_scaled_float16_norm_beyond_its_range(backend: str) -> None:
    """The scaled gradient's squares overflow float16 by far, and its norm is above 65504."""
    param = torch.nn.Parameter(torch.zeros(64, dtype=torch.float16))
    param.grad = torch.full_like(param, 20_000.0)  # norm 160,000, scaled by 8
    optimizer = torchclip.SGD([param], lr=1.0, clip=8.0, backend=backend)
    optimizer.grad_scale, optimizer.found_inf = torch.tensor(8.0), torch.tensor(0.0)
    optimizer.step()
    torch.testing.assert_close(optimizer.grad_norm.float(), torch.tensor(20_000.0))
    assert torch.equal(param.detach(), torch.full_like(param, -1.0))


ROUTES: dict[str, Callable[[str, torch.optim.Optimizer], torch.optim.Optimizer]] = {
    "deepcopy": lambda name, optimizer: copy.deepcopy(optimizer),
    "pickle": lambda name, optimizer: pickle.loads(pickle.dumps(optimizer)),
    "loading": lambda name, optimizer: loaded(name, optimizer),
}


def loaded(name: str, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    fresh = build(name, copies_of(optimizer.param_groups[0]["params"]), backend=optimizer.backend)
    fresh.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    return fresh


@pytest.mark.parametrize("route", ROUTES.values(), ids=ROUTES)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_scaling_within_the_step_survives(name: str, route: Callable[..., torch.optim.Optimizer], backend: str) -> None:
    """Else GradScaler would unscale the gradients in place."""
    optimizer = build(name, leaves(), backend=backend)
    optimizer.step(loss=LOSS)
    twin = route(name, optimizer)
    assert twin.backend == backend
    params = twin.param_groups[0]["params"]
    draw_gradients(1, optimizer.param_groups[0]["params"])
    scaled_gradients(1, params, optimizer.param_groups[0]["params"])
    scaler = torch.amp.GradScaler("cpu", init_scale=SCALE)
    scaler.scale(torch.ones(()))
    given = [param.grad.clone() for param in params]
    scaler.step(twin, loss=LOSS)
    optimizer.step(loss=LOSS)
    assert all(torch.equal(param.grad, grad) for param, grad in zip(params, given))
    assert_same_params(params, optimizer.param_groups[0]["params"])
