"""What ``optimizer.metrics()`` holds: keys, values, shapes and types, and what is gone with the clip policy."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import torchclip
from builders import draw_gradients, leaves
from torchclip import (
    AdaGC,
    AdaLossStep,
    AdaptiveGradientClip,
    AutoClip,
    ClipByGlobalNorm,
    ClipByTensorNorm,
    PolyakStep,
    SqrtDecay,
    ZClip,
)

NOTHING = {"sparsity"}
CLIPPED = {"grad_norm", "clip_factor", "clipped_fraction", "sparsity"}
OWN = CLIPPED | {"direction_norm"}

SKIPPED = {"skipped", "skipped_fraction"}
PER_TENSOR = ("grad_norm", "clip_factor", "clip_threshold")
KEYS: dict[str, tuple[type[torch.optim.Optimizer], dict[str, Any], set[str]]] = {
    "plain": (torchclip.AdamW, {}, NOTHING),
    "by_value": (torchclip.AdamW, {"clip": torchclip.ClipByValue(1.0)}, NOTHING),
    "extensions": (torchclip.SGD, {"extensions": (torchclip.LRDropout(), torchclip.Lookahead())}, NOTHING),
    "global_norm": (torchclip.AdamW, {"clip": 1.0}, CLIPPED),
    "tensor_norm": (torchclip.SGD, {"clip": ClipByTensorNorm(1.0)}, CLIPPED),
    "adaptive": (torchclip.SGD, {"clip": AdaptiveGradientClip()}, CLIPPED),
    "auto": (torchclip.SGD, {"clip": AutoClip()}, CLIPPED | {"clip_threshold"}),
    "z": (torchclip.SGD, {"clip": ZClip(warmup_steps=1)}, CLIPPED | {"clip_threshold"}),
    "ada_gc": (torchclip.SGD, {"clip": AdaGC(warmup_steps=1)}, CLIPPED | {"clip_threshold"}),
    "nonfinite": (torchclip.SGD, {"clip": ClipByTensorNorm(1.0, nonfinite="skip")}, CLIPPED | SKIPPED),
    "polyak": (torchclip.SGD, {"step_size": PolyakStep()}, CLIPPED | {"lr_scale"}),
    "clips_itself": (torchclip.MixClip, {"lr": 0.1, "gamma": 1.0}, OWN),
    "clips_itself_behind_a_policy": (torchclip.MixClip, {"lr": 0.1, "gamma": 1.0, "clip": 1.0}, OWN),
    "ada_grad_norm": (torchclip.AdaGradNorm, {}, OWN),
    "ada_loss": (torchclip.AdaLoss, {}, {"lr_scale", "sparsity"}),
    "step_size": (torchclip.Adam, {"step_size": SqrtDecay(), "clip": 1.0}, CLIPPED | {"lr_scale"}),
    "grda": (torchclip.GRDA, {"step_size": AdaLossStep()}, {"lr_scale", "sparsity"}),
}


@pytest.mark.parametrize("cls, options, keys", KEYS.values(), ids=KEYS)
def test_keys(cls: type[torch.optim.Optimizer], options: dict[str, Any], keys: set[str], backend: str) -> None:
    """Numbers without history, of the parameters' type and at least float32."""
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        params = [torch.nn.Parameter(p.detach().to(dtype)) for p in leaves()]
        optimizer = cls(params, **options, backend=backend)
        assert set(optimizer.metrics()) == NOTHING, "nothing was measured before the first step"
        for step in range(2):
            draw_gradients(step, params)
            optimizer.step(loss=1.0)
            metrics = optimizer.metrics()
            assert set(metrics) == keys
            for name, value in metrics.items():
                wanted = torch.float64 if dtype is torch.float64 and name != "sparsity" else torch.float32
                per_tensor = isinstance(optimizer.clip, (ClipByTensorNorm, AdaGC)) and name in PER_TENSOR
                assert value.dtype is wanted and value.shape == ((3,) if per_tensor else ()), name
                assert value.isfinite().all() and not value.requires_grad
            for name in {"grad_norm", "clip_factor"} & keys:
                assert torch.equal(metrics[name], getattr(optimizer, name))


@pytest.mark.parametrize("cls, options, keys", KEYS.values(), ids=KEYS)
def test_the_next_step_writes_no_metrics(
    cls: type[torch.optim.Optimizer], options: dict[str, Any], keys: set[str], backend: str
) -> None:
    """In float64 too, where what a step measures has the type of the metrics already."""
    for dtype in (torch.float32, torch.float64):
        params = [torch.nn.Parameter(p.detach().to(dtype)) for p in leaves()]
        optimizer = cls(params, **options, backend=backend)
        kept: list[tuple[Tensor, list[float]]] = []
        for step in range(3):
            draw_gradients(step, params)
            for p in params:
                p.grad *= 1 + step
            optimizer.step(loss=1.0 + step)
            measured = list(optimizer.metrics().values())
            measured += [getattr(optimizer, name) for name in ("grad_norm", "clip_factor") if name in keys]
            kept += [(value, value.tolist()) for value in measured]
            assert [value.tolist() for value, _ in kept] == [before for _, before in kept]


def one(gradient: float | Tensor, backend: str, **options: Any) -> tuple[torch.nn.Parameter, torch.optim.Optimizer]:
    """SGD over four ones, whose gradient has twice this norm."""
    param = torch.nn.Parameter(torch.ones(4))
    param.grad = torch.full((4,), gradient)
    return param, torchclip.SGD([param], lr=0.0, **options, backend=backend)


def test_clipped_fraction_counts_steps(backend: str) -> None:
    param, optimizer = one(1.0, backend, clip=ClipByGlobalNorm(8.0, nonfinite="skip"))
    fractions = []
    for gradient in (5.0, 2.0, 10.0, math.nan, 1.0):
        param.grad.fill_(gradient)
        optimizer.step()
        metrics = optimizer.metrics()
        assert float(metrics["grad_norm"]) == pytest.approx(2 * gradient, nan_ok=True)
        fractions.append(float(metrics["clipped_fraction"]))
    assert fractions[:3] == pytest.approx([1.0, 1 / 2, 2 / 3])
    assert fractions[4] == pytest.approx(2 / 4), "a step that is skipped does not count"
    param.grad = None
    optimizer.step()
    assert float(optimizer.metrics()["clipped_fraction"]) == pytest.approx(2 / 4), "nor does one without gradients"


def test_clipped_fraction_starts_anew_with_a_checkpoint(backend: str) -> None:
    _, optimizer = one(50.0, backend, clip=1.0)
    optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
    assert set(optimizer.metrics()) == NOTHING
    optimizer.clip = 1e9
    optimizer.step()
    assert float(optimizer.metrics()["clipped_fraction"]) == 0.0


def test_clipped_fraction_goes_on_under_another_policy(backend: str) -> None:
    _, optimizer = one(50.0, backend, clip=1.0)
    optimizer.step()
    optimizer.clip = 1e9
    optimizer.step()
    assert float(optimizer.metrics()["clipped_fraction"]) == pytest.approx(1 / 2), "since the optimizer was made"


def test_one_clipped_tensor_makes_a_clipped_step(backend: str) -> None:
    params = [torch.nn.Parameter(torch.ones(4)) for _ in range(2)]
    params[0].grad, params[1].grad = torch.full((4,), 0.1), torch.full((4,), 9.0)
    optimizer = torchclip.SGD(params, lr=0.1, clip=ClipByTensorNorm(1.0), backend=backend)
    optimizer.step()
    assert float(optimizer.metrics()["clipped_fraction"]) == 1.0
    assert optimizer.metrics()["clip_factor"].tolist() == pytest.approx([1.0, 1 / 18])


def test_lr_scale(backend: str) -> None:
    _, by_loss = one(1.0, backend, step_size=AdaLossStep(b0=2.0, alpha=0.5, c=1.0))
    _, by_steps = one(1.0, backend, step_size=SqrtDecay(b0=2.0, alpha=0.5))
    b_squared = 4.0
    for step, loss in enumerate((3.0, -1.0, math.inf, 0.5), 1):
        by_loss.step(loss=loss)
        by_steps.step()
        b_squared += 0.5 * abs(loss - 1.0) if math.isfinite(loss) else 0.0
        assert float(by_loss.metrics()["lr_scale"]) == pytest.approx(1 / math.sqrt(b_squared), rel=1e-6)
        assert float(by_steps.metrics()["lr_scale"]) == pytest.approx(1 / math.sqrt(4.0 + 0.5 * step), rel=1e-6)


def test_direction_norm(backend: str) -> None:
    """Of the average, on the scaled gradient; the policy's norm is that of the raw one."""
    param = torch.nn.Parameter(torch.ones(4))
    optimizer = torchclip.MixClip(
        [param], lr=0.1, gamma=1.0, momentum=0.75, clip=5.0, step_size=SqrtDecay(b0=1.0, alpha=3.0), backend=backend
    )
    param.grad = torch.full((4,), 5.0)
    optimizer.step()
    metrics = {name: float(value) for name, value in optimizer.metrics().items()}
    assert metrics["grad_norm"] == pytest.approx(10.0)
    assert metrics["clip_factor"] == pytest.approx(0.5, rel=1e-6)
    assert metrics["lr_scale"] == 0.5
    assert metrics["direction_norm"] == pytest.approx(0.25 * 10.0 * 0.5 * 0.5, rel=1e-6)


@pytest.mark.parametrize("scope, norms", [("optimizer", [5.0]), ("group", [3.0, 4.0]), ("tensor", [3.0, 4.0])])
def test_norms_of_ada_grad_norm(scope: str, norms: list[float], backend: str) -> None:
    """The factor on lr times the direction is the root of the sum, turned over."""
    params = [torch.nn.Parameter(torch.ones(4)) for _ in range(2)]
    optimizer = torchclip.AdaGradNorm(
        [{"params": params[:1]}, {"params": params[1:]}], lr=1.0, b0=2.0, momentum=0.5, scope=scope, backend=backend
    )
    params[0].grad, params[1].grad = torch.full((4,), 1.5), torch.full((4,), 2.0)
    optimizer.step()
    metrics = optimizer.metrics()
    assert metrics["grad_norm"].reshape(-1).tolist() == pytest.approx(norms)
    assert metrics["direction_norm"].reshape(-1).tolist() == pytest.approx([norm / 2 for norm in norms])
    factors = [1 / math.sqrt(4.0 + norm**2) for norm in norms]
    assert metrics["clip_factor"].reshape(-1).tolist() == pytest.approx(factors, rel=1e-6)


@pytest.mark.parametrize("scope", ["group", "tensor"])
def test_ada_grad_norm_without_a_gradient(scope: str, backend: str) -> None:
    """The norm is 0, the factor 1, and the sum stays."""
    params = [torch.nn.Parameter(torch.ones(2)) for _ in range(2)]
    groups = [{"params": [param]} for param in params]
    optimizer = torchclip.AdaGradNorm(groups, lr=1.0, b0=3.0, scope=scope, backend=backend)
    params[0].grad = torch.full((2,), 4.0)
    for step in (1, 2):
        optimizer.step()
        assert optimizer.clip_factor.tolist() == pytest.approx([(9 + 32 * step) ** -0.5, 1.0])
        assert optimizer.grad_norm.tolist() == pytest.approx([32**0.5, 0.0])
    params[1].grad = torch.full((2,), 4.0)
    optimizer.step()
    assert optimizer.clip_factor.tolist() == pytest.approx([(9 + 32 * 3) ** -0.5, (9 + 32) ** -0.5])


def test_the_factor_of_a_rule_that_clips_itself_is_the_first_groups(backend: str) -> None:
    """h depends on lr: over all groups it is the first group's, whether that has gradients in this step or not."""
    params = [torch.nn.Parameter(torch.ones(4)) for _ in range(2)]
    groups = [{"params": params[:1]}, {"params": params[1:], "lr": 0.25}]
    optimizer = torchclip.MixClip(groups, lr=0.5, gamma=2.0, momentum=0.0, backend=backend)
    params[1].grad = torch.ones(4)
    optimizer.step()
    assert float(optimizer.clip_factor) == pytest.approx(1 / (1 + 0.5 * 2.0 / 2.0))


def test_sparsity(backend: str) -> None:
    """Of every rule; counted when it is asked for."""
    param = torch.nn.Parameter(torch.tensor([0.0, 1.0, 0.0, 2.0]))
    for cls, options in ((torchclip.SGD, {"lr": 0.0}), (torchclip.GRDA, {"lr": 0.0})):
        optimizer = cls([param], **options, backend=backend)
        assert float(optimizer.metrics()["sparsity"]) == 0.5
        param.grad = torch.ones(4)
        optimizer.step()
        assert float(optimizer.metrics()["sparsity"]) == 0.5


@pytest.mark.parametrize("policy", [2.0, ClipByTensorNorm(2.0), AdaptiveGradientClip(), AutoClip(window=2), ZClip()])
def test_without_its_policy_no_old_norm_is_shown(policy: object, backend: str) -> None:
    _, optimizer = one(3.0, backend, clip=policy)
    optimizer.step()
    assert optimizer.grad_norm.reshape(()) == 6.0
    optimizer.clip = None
    for _ in range(2):
        assert set(optimizer.metrics()) == NOTHING
        for name in ("grad_norm", "clip_factor"):
            with pytest.raises(RuntimeError, match="clip="):
                getattr(optimizer, name)
        optimizer.step()
    optimizer.clip = torchclip.ClipByValue(1.0)
    optimizer.step()
    assert set(optimizer.metrics()) == NOTHING
    optimizer.clip = math.inf
    optimizer.step()
    assert optimizer.grad_norm == 6.0 and optimizer.clip_factor == 1.0


def test_a_new_policy_shows_no_norm_of_the_old_one(backend: str) -> None:
    param, optimizer = one(3.0, backend, clip=ClipByTensorNorm(1.0))
    optimizer.step()
    optimizer.clip = ClipByGlobalNorm(1.0)
    with pytest.raises(RuntimeError, match=r"call step\(\)"):
        _ = optimizer.grad_norm
    param.grad.fill_(1.0)
    optimizer.step()
    assert optimizer.grad_norm.shape == () and optimizer.grad_norm == 2.0


@pytest.mark.parametrize("policy", [ClipByGlobalNorm(8.0), AdaptiveGradientClip(1.0), AutoClip(50.0, 3), ZClip()])
def test_found_inf_still_reports(policy: object, backend: str) -> None:
    """A step that a GradScaler skips changes no memory, and tells its norm."""
    param, optimizer = one(1.0, backend, clip=policy)
    optimizer.step()
    shared = {name: value.clone() for name, value in optimizer.param_groups[0].get("shared", {}).items()}
    param.grad.fill_(math.inf)
    optimizer.grad_scale, optimizer.found_inf = torch.tensor(2.0), torch.tensor(1.0)
    optimizer.step()
    assert not math.isfinite(optimizer.metrics()["grad_norm"])
    for name, value in optimizer.param_groups[0].get("shared", {}).items():
        assert torch.equal(value, shared[name]), name
