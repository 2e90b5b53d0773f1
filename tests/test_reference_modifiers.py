"""Clip policies, step sizes, extensions and AdaGradNorm on the reference path, against plain loops of the papers.

The loops are numpy's or Python's, take every parameter for itself, and know no shared numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import torchclip
from torchclip.clip import AdaptiveGradientClip, AutoClip, ClipByGlobalNorm, ClipByValue, Scope, ZClip
from torchclip.extensions import GradientDropout, GradientNoise, Lookahead, LRDropout
from torchclip.modifiers import SLOW, Modifiers
from torchclip.reference import step as reference_step
from torchclip.reference.draws import Draws
from torchclip.rule_specs import adagrad_norm
from torchclip.shared import complete_shared
from torchclip.step_size import AdaLossStep, SqrtDecay

SHAPES = [(3, 4), (7,), (), (2, 3, 2)]
STEPS = 12
LR, MOMENTUM = 0.1, 0.9
Arrays = list[Any]  # numpy arrays, or None for no gradient


def values(seed: int) -> Arrays:
    generator = np.random.default_rng(seed)
    return [generator.standard_normal(shape) for shape in SHAPES]


def gradients(step: int) -> Arrays:
    """Of step 1, 2, …: one parameter misses its own in four steps of five, and steps 7 and 10 stand out."""
    scale = {7: 40.0, 10: 15.0}.get(step, 1.0 + 0.05 * step)
    return [None if step % 5 == index else scale * grad for index, grad in enumerate(values(100 + step))]


def parameters(dtype: torch.dtype = torch.float64) -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(torch.tensor(value).to(dtype)) for value in values(1)]


def give(params: list[torch.nn.Parameter], grads: Arrays) -> None:
    for param, grad in zip(params, grads, strict=True):
        param.grad = None if grad is None else torch.tensor(grad).to(param.dtype)


def sgd(params: list[torch.nn.Parameter], **options: Any) -> torchclip.SGD:
    return torchclip.SGD(params, **{"lr": LR, "momentum": MOMENTUM, "backend": "reference", **options})


def shared_of(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    return optimizer.param_groups[0]["shared"]


def assert_same(ours: list[torch.nn.Parameter], theirs: Arrays, tolerance: float = 1e-12) -> None:
    for index, (param, value) in enumerate(zip(ours, theirs, strict=True)):
        np.testing.assert_allclose(
            param.detach().double().numpy(),
            value,
            tolerance,
            tolerance * np.abs(value).max(),
            err_msg=f"tensor {index}",
        )


class PlainSGD:
    """Momentum as torch's, tensor by tensor."""

    def __init__(self) -> None:
        self.params, self.buffers = values(1), [None] * len(SHAPES)

    def step(self, grads: Arrays) -> None:
        for i, grad in enumerate(grads):
            if grad is not None:
                self.buffers[i] = grad if self.buffers[i] is None else MOMENTUM * self.buffers[i] + grad
                self.params[i] = self.params[i] - LR * self.buffers[i]


def joint_norm(grads: Arrays) -> float:
    return math.sqrt(sum(float((grad**2).sum()) for grad in grads if grad is not None))


def scaled(grads: Arrays, factor: float) -> Arrays:
    return [None if grad is None else grad * factor for grad in grads]


def paper_auto_clip(q: float, window: int) -> Callable[[Arrays, Arrays], Arrays]:
    history: list[float] = []

    def clip(params: Arrays, grads: Arrays) -> Arrays:
        norm = joint_norm(grads)
        history.append(norm)
        return scaled(grads, min(1.0, float(np.percentile(history[-window:], q)) / (norm + 1e-6)))

    return clip


def paper_z_clip(alpha: float, threshold: float, warmup: int, max_norm: float) -> Callable[[Arrays, Arrays], Arrays]:
    first: list[float] = []
    average = [0.0, 0.0]

    def bound_of(norm: float) -> float:
        if len(first) < warmup:
            first.append(norm)
            average[:] = np.mean(first), np.var(first)
            return max_norm
        mean, std = average[0], math.sqrt(average[1])
        z = (norm - mean) / (std + 1e-6)
        bound = min(mean + threshold**2 / z * std if z > threshold else norm, max_norm)
        average[0] = alpha * mean + (1 - alpha) * bound
        average[1] = alpha * average[1] + (1 - alpha) * (bound - average[0]) ** 2
        return bound

    def clip(params: Arrays, grads: Arrays) -> Arrays:
        norm = joint_norm(grads)
        bound = bound_of(norm)
        return scaled(grads, bound / (norm + 1e-6)) if norm > bound else grads

    return clip


def paper_adaptive(clipping: float, eps: float) -> Callable[[Arrays, Arrays], Arrays]:
    def unitwise(array: Any) -> Any:
        axes = tuple(range(1, array.ndim)) or None
        return np.sqrt((array**2).sum(axis=axes, keepdims=axes is not None))

    def clipped(param: Any, grad: Any) -> Any:
        max_norm, norm = np.maximum(unitwise(param), eps) * clipping, unitwise(grad)
        return np.where(norm < max_norm, grad, grad * (max_norm / np.maximum(norm, 1e-6)))

    return lambda params, grads: [None if g is None else clipped(p, g) for p, g in zip(params, grads, strict=True)]


POLICIES: dict[str, tuple[Any, Callable[[], Callable[[Arrays, Arrays], Arrays]]]] = {
    "auto_clip": (AutoClip(60.0), lambda: paper_auto_clip(60.0, 1024)),
    "auto_clip-ring": (AutoClip(30.0, window=4), lambda: paper_auto_clip(30.0, 4)),
    "auto_clip-largest": (AutoClip(100.0, window=3), lambda: paper_auto_clip(100.0, 3)),
    "auto_clip-smallest": (AutoClip(0.0), lambda: paper_auto_clip(0.0, 1024)),
    "z_clip": (ZClip(0.9, 2.0, warmup_steps=4), lambda: paper_z_clip(0.9, 2.0, 4, math.inf)),
    "z_clip-bound": (ZClip(0.5, 1.5, warmup_steps=3, max_norm=5.0), lambda: paper_z_clip(0.5, 1.5, 3, 5.0)),
    "z_clip-warm": (ZClip(warmup_steps=40, max_norm=7.0), lambda: paper_z_clip(0.97, 2.5, 40, 7.0)),
    "adaptive": (AdaptiveGradientClip(0.9), lambda: paper_adaptive(0.9, 1e-3)),
    "adaptive-eps": (AdaptiveGradientClip(0.5, eps=3.0), lambda: paper_adaptive(0.5, 3.0)),
}


@pytest.mark.parametrize(("policy", "paper"), POLICIES.values(), ids=POLICIES)
def test_policies_clip_as_their_papers(policy: Any, paper: Callable) -> None:
    params, plain, clip = parameters(), PlainSGD(), paper()
    optimizer = sgd(params, clip=policy)
    clipped = 0
    for step in range(1, STEPS + 1):
        give(params, gradients(step))
        optimizer.step()
        grads = clip(plain.params, gradients(step))
        norm, left = joint_norm(gradients(step)), joint_norm(grads)
        clipped += left < norm * (1 - 1e-9)
        measured = optimizer.metrics()
        assert float(measured["grad_norm"]) == pytest.approx(norm, rel=1e-12)
        assert float(measured["clip_factor"]) == pytest.approx(left / norm, rel=1e-12)
        assert float(measured["clipped_fraction"]) == pytest.approx(clipped / step, rel=1e-12)
        plain.step(grads)
    assert 0 < clipped <= STEPS, "this case does not clip"
    assert_same(params, plain.params)


EVERY_POLICY = {**{name: policy for name, (policy, _) in POLICIES.items()}, "global_norm": ClipByGlobalNorm(1.0)}


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("policy", EVERY_POLICY.values(), ids=EVERY_POLICY)
def test_a_norm_that_is_not_finite_shows_and_is_not_remembered(policy: Any, bad: float) -> None:
    params = parameters()
    optimizer = sgd(params, clip=policy)
    for step in (1, 2, 3, 4):  # past the warm-up of most
        give(params, gradients(step))
        optimizer.step()
    before = (
        {name: value.clone() for name, value in shared_of(optimizer).items()}
        if "shared" in optimizer.param_groups[0]
        else {}
    )
    grads = gradients(1)
    grads[0][1, 2] = bad
    give(params, grads)
    optimizer.step()
    assert not bool(params[0][1, 2].isfinite())
    assert not math.isfinite(float(optimizer.grad_norm))
    assert all(torch.equal(shared_of(optimizer)[name], value) for name, value in before.items())


def test_auto_clip_without_a_finite_norm_clips_nothing() -> None:
    params = parameters()
    optimizer = sgd(params, clip=AutoClip())
    give(params, [np.full(shape, math.inf) for shape in SHAPES])
    optimizer.step()
    assert float(optimizer.clip_factor) == 1 and float(shared_of(optimizer)["norm_count"]) == 0


def test_adaptive_clip_of_slack_units_is_a_factor_of_exactly_one() -> None:
    params = parameters()
    optimizer = sgd(params, clip=AdaptiveGradientClip(1e6))
    for step in (1, 2):
        give(params, gradients(step))
        optimizer.step()
        assert float(optimizer.clip_factor) == 1 and float(optimizer.metrics()["clipped_fraction"]) == 0


LOSSES = [2.0, 0.5, math.nan, 3.0, -1.0, math.inf, 0.25, 1.0, 0.0, 8.0, 0.125, 2.5]


def ada_loss_scale(b_squared: float, alpha: float, c: float) -> Callable[[int], float]:
    def scale(step: int) -> float:
        gaps = [alpha * abs(loss - c) for loss in LOSSES[:step] if math.isfinite(loss)]
        return 1 / math.sqrt(b_squared + sum(gaps))

    return scale


STEP_SIZES: dict[str, tuple[Any, Callable[[int], float]]] = {
    "ada_loss": (AdaLossStep(), ada_loss_scale(1.0, 1.0, 0.0)),
    "ada_loss-options": (AdaLossStep(b0=0.5, alpha=3.0, c=0.75), ada_loss_scale(0.25, 3.0, 0.75)),
    "sqrt_decay": (SqrtDecay(), lambda step: 1 / math.sqrt(1 + step)),
    "sqrt_decay-options": (SqrtDecay(b0=0.5, alpha=3.0), lambda step: 1 / math.sqrt(0.25 + 3 * step)),
}


@pytest.mark.parametrize(("step_size", "scale"), STEP_SIZES.values(), ids=STEP_SIZES)
def test_step_sizes_scale_as_their_formulas(step_size: Any, scale: Callable[[int], float]) -> None:
    params, plain = parameters(), PlainSGD()
    optimizer = sgd(params, step_size=step_size)
    for step in range(1, STEPS + 1):
        give(params, gradients(step))
        optimizer.step(loss=torch.tensor(LOSSES[step - 1], dtype=torch.float64))
        plain.step(scaled(gradients(step), scale(step)))
        assert optimizer.metrics().keys() == {"lr_scale", "sparsity"}
        assert float(optimizer.metrics()["lr_scale"]) == pytest.approx(scale(step), rel=1e-12)
    assert_same(params, plain.params)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_leaves_b(bad: float) -> None:
    params = parameters()
    optimizer = torchclip.AdaLoss(params, b0=2.0, backend="reference")
    give(params, gradients(1))
    optimizer.step(loss=3.0)
    optimizer.step(loss=bad)
    assert float(shared_of(optimizer)["b_squared"]) == 7.0


@pytest.mark.parametrize(("k", "alpha"), [(5, 0.5), (1, 0.3), (3, 1.0), (4, 0.0)], ids=lambda value: str(value))
def test_lookahead_as_its_paper(k: int, alpha: float) -> None:
    params, plain, slow = parameters(), PlainSGD(), values(1)
    optimizer = sgd(params, extensions=(Lookahead(k, alpha),))
    for step in range(1, STEPS + 1):
        give(params, gradients(step))
        optimizer.step()
        plain.step(gradients(step))
        for i in range(len(SHAPES)):
            if step % k == 0 and gradients(step)[i] is not None:
                slow[i] = slow[i] + alpha * (plain.params[i] - slow[i])
                plain.params[i] = slow[i]
    assert_same(params, plain.params)
    assert_same([optimizer.state[param]["slow"] for param in params], slow)


def test_lookahead_starts_from_the_rounded_parameter() -> None:
    """A float32 loop with its bfloat16 rounding: 1 - 0.1 * 0.03 is 0.996 in bfloat16, and not 0.997."""
    param = torch.nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
    param.grad = torch.full_like(param, 0.03)
    optimizer = sgd([param], extensions=(Lookahead(1, 0.5),))
    optimizer.step()
    fast = (1 - LR * param.grad.float()).bfloat16().float()
    assert optimizer.state[param]["slow"].dtype is torch.float32
    torch.testing.assert_close(optimizer.state[param]["slow"], 1 + 0.5 * (fast - 1), rtol=0, atol=0)


def test_slow_weights_that_are_missing_make_no_first_step() -> None:
    params, plain = parameters(), PlainSGD()
    optimizer = sgd(params, extensions=(Lookahead(STEPS + 1),))
    for step in range(1, STEPS + 1):
        give(params, gradients(step))
        for state in optimizer.state.values():
            state.pop("slow", None)
        optimizer.step()
        plain.step(gradients(step))
    assert_same(params, plain.params)


SCOPES = {
    Scope.OPTIMIZER: [[0, 1, 2, 3]],
    Scope.GROUP: [[0, 1], [2, 3]],
    Scope.TENSOR: [[0], [1], [2], [3]],
}


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("scope", Scope, ids=lambda scope: scope.value)
def test_adagrad_norm_by_its_formula(scope: Scope, momentum: float) -> None:
    params, plain, averages = parameters(), values(1), [np.zeros(shape) for shape in SHAPES]
    groups = [{"params": params[:2]}, {"params": params[2:], "lr": 0.05}]
    options = {"lr": LR, "b0": 0.5, "momentum": momentum, "weight_decay": 0.1, "backend": "reference"}
    optimizer = torchclip.AdaGradNorm(groups, scope=scope, **options)
    sums = [0.25] * len(SCOPES.get(scope, SHAPES))
    for step in range(1, STEPS + 1):
        give(params, gradients(step))
        optimizer.step()
        grads = [None if g is None else g + 0.1 * p for p, g in zip(plain, gradients(step), strict=True)]
        for i, members in enumerate(SCOPES.get(scope, [[0], [1], [2], [3]])):
            present = [grads[member] for member in members if grads[member] is not None]
            if scope is Scope.ROW and present:  # below two dimensions each element for itself
                axes = tuple(range(1, present[0].ndim)) if present[0].ndim > 1 else ()
                sums[i] = sums[i] + (present[0] ** 2).sum(axis=axes, keepdims=True)
            else:
                sums[i] = sums[i] + sum((grad**2).sum() for grad in present)
            for member in [member for member in members if grads[member] is not None]:
                averages[member] = momentum * averages[member] + (1 - momentum) * grads[member]
                root = np.sqrt(sums[i]) + (1e-10 if scope is Scope.ROW else 0)
                plain[member] = plain[member] - (LR if member < 2 else 0.05) * averages[member] / root
        check_adagrad_norm_report(optimizer, scope, grads, averages, sums)
    assert_same(params, plain)
    held = [optimizer.state[param].get("sum") for param in params]
    if scope in (Scope.OPTIMIZER, Scope.GROUP):
        assert held == [None] * 4
        held = [group["shared"]["sum"] for group in optimizer.param_groups if "shared" in group]
    assert_same(held, [np.asarray(total) for total in sums])


def check_adagrad_norm_report(optimizer: Any, scope: Scope, grads: Arrays, averages: Arrays, sums: Arrays) -> None:
    moved = [None if grad is None else average for grad, average in zip(grads, averages, strict=True)]
    parts = SCOPES[Scope.OPTIMIZER if scope is Scope.ROW else scope]
    norms, directions = ([joint_norm([arrays[i] for i in part]) for part in parts] for arrays in (grads, moved))
    factors = (
        [1 / math.sqrt(s) if norm > 0 else 1.0 for s, norm in zip(sums, norms)] if scope is not Scope.ROW else [1.0]
    )
    measured = optimizer.metrics()
    for name, expected in (("grad_norm", norms), ("direction_norm", directions), ("clip_factor", factors)):
        one_for_all = scope in (Scope.OPTIMIZER, Scope.ROW)
        assert measured[name].shape == (() if one_for_all else (len(parts),))
        np.testing.assert_allclose(measured[name].numpy().reshape(-1), expected, 1e-12)


def test_adagrad_norm_over_rows_keeps_float32_beside_bfloat16() -> None:
    params = parameters(torch.bfloat16)
    optimizer = torchclip.AdaGradNorm(params, scope="row", clip=AdaptiveGradientClip(0.5), backend="reference")
    give(params, gradients(6))
    optimizer.step()
    for param in params:
        if param.grad is not None:
            total = optimizer.state[param]["sum"]
            assert total.dtype is torch.float32
            assert total.shape == (param.shape if param.ndim < 2 else (len(param), *[1] * (param.ndim - 1)))


EXTENSIONS = (GradientNoise(0.5, 0.7), GradientDropout(0.3), LRDropout(0.4), Lookahead(3, 0.6))


@pytest.mark.parametrize("decoupled", [False, True], ids=["coupled", "decoupled"])
def test_everything_at_once_in_its_order(decoupled: bool) -> None:
    """ClipByValue, SqrtDecay and all four extensions on SGD with momentum; the draws are tested in test_draws.py."""
    params, plain, slow, decay = parameters(), PlainSGD(), values(1), 0.2
    options = {"clip": ClipByValue(1.0), "step_size": SqrtDecay(2.0, 0.5), "extensions": EXTENSIONS, "seed": 5}
    optimizer = sgd(params, weight_decay=decay, decoupled_weight_decay=decoupled, **options)
    for step in range(1, STEPS + 1):
        give(params, gradients(step))
        optimizer.step()
        draws, sigma = Draws(5, step), math.sqrt(0.5 / step**0.7)
        grads, kept = gradients(step), list(plain.params)
        for i in [i for i, grad in enumerate(grads) if grad is not None]:
            g = np.clip(grads[i], -1, 1) / math.sqrt(4 + 0.5 * step)
            g = np.where(draws.dropped(params[i], i, 1, 0.3).numpy(), 0, g)
            g = g + sigma * draws.normals(params[i], i).double().numpy()
            grads[i] = g if decoupled else g + decay * plain.params[i]
            kept[i] = plain.params[i] = plain.params[i] * (1 - LR * decay if decoupled else 1)
        plain.step(grads)
        for i in [i for i, grad in enumerate(grads) if grad is not None]:
            plain.params[i] = np.where(draws.dropped(params[i], i, 2, 0.4).numpy(), kept[i], plain.params[i])
            if step % 3 == 0:
                plain.params[i] = slow[i] = slow[i] + 0.6 * (plain.params[i] - slow[i])
    assert_same(params, plain.params)


def everything(params: list[torch.nn.Parameter], clip: Any, **options: Any) -> torchclip.AdaGradNorm:
    modifiers = {"clip": clip, "step_size": AdaLossStep(), "extensions": EXTENSIONS, "seed": 3, "backend": "reference"}
    return torchclip.AdaGradNorm(params, momentum=0.9, **{**modifiers, **options})


def numbers(optimizer: torch.optim.Optimizer) -> dict[str, list[torch.Tensor]]:
    """Copies of everything that a step may write."""
    states = [tensor for state in optimizer.state.values() for tensor in state.values()]
    kinds = {
        "shared": list(shared_of(optimizer).values()),
        "state": states,
        "params": optimizer.param_groups[0]["params"],
    }
    return {kind: [tensor.detach().clone() for tensor in tensors] for kind, tensors in kinds.items()}


STOPPED = {
    "nonfinite": lambda params, optimizer: params[1].grad.fill_(math.inf),
    "found_inf": lambda params, optimizer: setattr(optimizer, "found_inf", torch.tensor(1.0)),
    "no_gradients": lambda params, optimizer: give(params, [None] * len(SHAPES)),
}


@pytest.mark.parametrize(
    "clip", [ZClip(0.9, 2.0, 1, nonfinite="skip"), AutoClip(10.0, nonfinite="skip")], ids=["z", "auto"]
)
@pytest.mark.parametrize("stop", STOPPED.values(), ids=STOPPED)
def test_a_step_that_is_not_taken_writes_nothing(stop: Callable, clip: Any) -> None:
    params = parameters()
    optimizer = everything(params, clip)
    for step in (2, 7, 3):
        give(params, gradients(step))
        optimizer.step(loss=2.0)
    before, fraction = numbers(optimizer), optimizer.metrics()["clipped_fraction"]
    assert 0 < float(fraction) < 1
    give(params, gradients(7))
    stop(params, optimizer)
    optimizer.step(loss=2.0)
    for kind, tensors in numbers(optimizer).items():
        torch.testing.assert_close(tensors, before[kind], rtol=0, atol=0, msg=lambda text, kind=kind: f"{kind}: {text}")
    assert optimizer.metrics()["clipped_fraction"] == fraction
    if hasattr(optimizer, "found_inf"):
        assert float(optimizer.grad_norm) == pytest.approx(joint_norm(gradients(7)), rel=1e-12), "still measured"
        del optimizer.found_inf
    give(params, gradients(4))
    optimizer.step(loss=2.0)
    assert float(shared_of(optimizer)["step"]) == 4 and float(shared_of(optimizer)["norm_count"]) == 4
    assert float(shared_of(optimizer)["b_squared"]) == 9


# Each policy before one scope and each scope behind one policy: neither asks what the other is.
MIXES = {f"{name}-row": (clip, Scope.ROW) for name, clip in EVERY_POLICY.items()}
MIXES |= {f"z_clip-{scope.value}": (EVERY_POLICY["z_clip"], scope) for scope in Scope}


@pytest.mark.parametrize(("clip", "scope"), MIXES.values(), ids=MIXES)
def test_any_mix_resumes_from_a_checkpoint(clip: Any, scope: Scope) -> None:
    """AdaGradNorm with all the rest: twelve steps, and six and six, bit for bit."""
    through, halves = parameters(), parameters()
    optimizers = [everything(params, clip, scope=scope) for params in (through, halves)]
    for step in range(1, STEPS + 1):
        if step == 7:
            saved = optimizers[1].state_dict()
            optimizers[1] = everything(halves, clip, scope=scope, seed=99)
            optimizers[1].load_state_dict(saved)
        for params, optimizer in zip((through, halves), optimizers, strict=True):
            give(params, gradients(step))
            optimizer.step(loss=1.0)
    assert all(torch.equal(one, other) for one, other in zip(through, halves, strict=True))
    assert not any(torch.equal(one, torch.tensor(start)) for one, start in zip(through, values(1), strict=True))
    assert all(bool(param.isfinite().all()) for param in through)


DIFFERENTIABLE = {
    "adagrad_norm-tensor": (Modifiers(), Scope.TENSOR),
    "adagrad_norm-row-adaptive": (Modifiers(AdaptiveGradientClip(0.5)), Scope.ROW),
    "adagrad_norm-dropout-lookahead": (Modifiers(lr_dropout=LRDropout(), lookahead=Lookahead(2)), Scope.OPTIMIZER),
    "adagrad_norm-z_clip": (Modifiers(ZClip(0.5, 0.5, warmup_steps=1)), Scope.GROUP),
    "adagrad_norm-auto_clip": (Modifiers(AutoClip(50.0)), Scope.TENSOR),
}


@pytest.mark.parametrize(("modifiers", "scope"), DIFFERENTIABLE.values(), ids=DIFFERENTIABLE)
def test_gradients_through_two_steps(modifiers: Modifiers, scope: Scope) -> None:
    spec = adagrad_norm(scope) if modifiers.lookahead is None else adagrad_norm(scope).with_slot(SLOW)

    def two_steps(start: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        param, state = start.clone(), {}
        group: dict[str, Any] = {"params": [param], "lr": 0.1, "b0": 0.7, "momentum": 0.9, "weight_decay": 0.1}
        complete_shared([group], modifiers, spec, scope, 3)
        for grad in (first, 3 * second):
            param.grad = grad
            reference_step(spec, [group], state, modifiers=modifiers, scope=scope)
        return param

    generator = torch.Generator().manual_seed(4)
    inputs = [torch.randn(2, 3, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    if modifiers.lookahead is not None:
        inputs[0].requires_grad_(False)  # the slow weights start as a detached copy, as all state does
    assert torch.autograd.gradcheck(two_steps, inputs)
