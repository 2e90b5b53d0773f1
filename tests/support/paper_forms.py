"""The papers' own forms of what stands around a rule, in plain float64, for the tests of the reference path."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import torchclip
from torchclip.policies.clip import AdaGC, AdaptiveGradientClip, AutoClip, ClipByGlobalNorm, ZClip

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


def paper_ada_gc(
    lambda_abs: float, lambda_rel: float, beta: float, warmup_steps: int
) -> Callable[[Arrays, Arrays], Arrays]:
    bounds: dict[int, float] = {}
    taken = [0]

    def clipped(index: int, grad: Any, joint: float) -> Any:
        norm, bound = math.sqrt((grad**2).sum()), bounds.get(index)
        if taken[0] < warmup_steps or bound is None:
            factor = min(lambda_abs / joint, 1.0)
            bounds[index] = factor * norm if bound is None else min(bound, factor * norm)
        else:
            factor = min(lambda_rel * bound / norm, 1.0)
            bounds[index] = beta * bound + (1 - beta) * factor * norm
        return factor * grad

    def clip(params: Arrays, grads: Arrays) -> Arrays:
        taken[0] += 1
        joint = joint_norm(grads)
        return [None if grad is None else clipped(index, grad, joint) for index, grad in enumerate(grads)]

    return clip


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
    "ada_gc": (AdaGC(2.0, 1.05, 0.9, warmup_steps=5), lambda: paper_ada_gc(2.0, 1.05, 0.9, 5)),
    "ada_gc-cold": (AdaGC(1.0, 1.5, 0.5, warmup_steps=0), lambda: paper_ada_gc(1.0, 1.5, 0.5, 0)),
}

EVERY_POLICY = {**{name: policy for name, (policy, _) in POLICIES.items()}, "global_norm": ClipByGlobalNorm(1.0)}
