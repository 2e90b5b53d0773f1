"""What each rule's update multiplies with, from the numbers of a param group: reckoned here once more, for the tests of
``csrc/rules`` and ``kernels/rules.py``.

``(group, step, first) -> {name: value}`` of the step numbered ``step`` (1, 2, …); ``first`` says that the state was
made in this very step. Coefficients that depend on a measured norm are given for a norm of 0, those that depend on
another number of state for its initial value.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

Group = Mapping[str, Any]
Coefficients = dict[str, float]

ROW_EPS = 1e-10
"""Added to the root of a row's sum by AdaGradNorm's authors."""


def _momentum_coefficients(
    momentum: float, gradient_weight: float, momentum_step: float, gradient_step: float
) -> Coefficients:
    return {
        "momentum": momentum,
        "gradient_weight": gradient_weight,
        "momentum_step": momentum_step,
        "gradient_step": gradient_step,
        "root_offset": ROW_EPS,
    }


def _sgd_coefficients(group: Group, step: float, first: bool) -> Coefficients:
    lr, momentum = float(group["lr"]), group["momentum"]
    if momentum == 0:
        return _momentum_coefficients(0.0, 1.0, 0.0, lr)
    return _momentum_coefficients(
        0.0 if first else momentum,
        1.0 if first else 1.0 - group["dampening"],
        lr * momentum if group["nesterov"] else lr,
        lr if group["nesterov"] else 0.0,
    )


def _averaged_momentum_coefficients(group: Group, momentum_step: float, gradient_step: float) -> Coefficients:
    momentum = group["momentum"]
    if momentum == 0:  # m is g, and no buffer is kept
        return _momentum_coefficients(0.0, 1.0, 0.0, momentum_step + gradient_step)
    return _momentum_coefficients(momentum, 1.0 - momentum, momentum_step, gradient_step)


def _normalized_sgd_coefficients(group: Group, step: float, first: bool) -> Coefficients:
    lr, eps = float(group["lr"]), group["eps"]
    return _averaged_momentum_coefficients(group, lr / eps if eps > 0 else lr, 0.0)


def _mix_clip_coefficients(group: Group, step: float, first: bool) -> Coefficients:
    lr, nu = float(group["lr"]), group["nu"]
    return _averaged_momentum_coefficients(group, nu * lr, (1.0 - nu) * lr)


def _adam_coefficients(group: Group, step: float, first: bool) -> Coefficients:
    beta1, beta2 = (float(beta) for beta in group["betas"])
    return {
        "beta1": beta1,
        "gradient_weight": 1.0 - beta1,
        "beta2": beta2,
        "square_weight": 1.0 - beta2,
        "momentum_step": float(group["lr"]) / (1.0 - beta1**step),
        "gradient_step": 0.0,
        "root_scale": 1.0 / math.sqrt(1.0 - beta2**step),
        "root_offset": group["eps"],
    }


def _nadam_coefficients(group: Group, step: float, first: bool) -> Coefficients:
    beta1, beta2 = (float(beta) for beta in group["betas"])
    lr, decay = float(group["lr"]), group["momentum_decay"]
    momentum, following = (beta1 * (1.0 - 0.5 * 0.96 ** (t * decay)) for t in (step, step + 1.0))
    return {
        "beta1": beta1,
        "gradient_weight": 1.0 - beta1,
        "beta2": beta2,
        "square_weight": 1.0 - beta2,
        "momentum_step": lr * following / (1.0 - momentum * following),
        "gradient_step": lr * (1.0 - momentum) / (1.0 - momentum),
        "root_scale": 1.0 / math.sqrt(1.0 - beta2**step),
        "root_offset": group["eps"],
    }


def _radam_coefficients(group: Group, step: float, first: bool) -> Coefficients:
    beta1, beta2 = (float(beta) for beta in group["betas"])
    correction2 = 1.0 - beta2**step
    rho_inf = 2.0 / (1.0 - beta2) - 1.0
    rho = rho_inf - 2.0 * step * beta2**step / correction2
    is_rectified = rho > 5.0
    factor = 1.0
    if is_rectified:
        rectification = math.sqrt((rho - 4.0) * (rho - 2.0) * rho_inf / ((rho_inf - 4.0) * (rho_inf - 2.0) * rho))
        factor = rectification * math.sqrt(correction2)
    return {
        "beta1": beta1,
        "gradient_weight": 1.0 - beta1,
        "beta2": beta2,
        "square_weight": 1.0 - beta2,
        "momentum_step": float(group["lr"]) / (1.0 - beta1**step) * factor,
        "gradient_step": 0.0,
        "root_scale": 1.0 if is_rectified else 0.0,
        "root_offset": group["eps"] if is_rectified else 1.0,
    }


def _rmsprop_coefficients(group: Group, step: float, first: bool) -> Coefficients:
    alpha = group["alpha"]
    return {
        "square_decay": alpha,
        "square_weight": 1.0 - alpha,
        "momentum": group["momentum"],
        "step": float(group["lr"]),
        "eps": group["eps"],
    }


def _adagrad_coefficients(group: Group, step: float, first: bool) -> Coefficients:
    return {
        "square_decay": 1.0,
        "square_weight": 1.0,
        "momentum": 0.0,
        "step": float(group["lr"]) / (1.0 + (step - 1.0) * group["lr_decay"]),
        "eps": group["eps"],
    }


def _adagrad_norm_coefficients(group: Group, step: float, first: bool) -> Coefficients:
    return _averaged_momentum_coefficients(group, float(group["lr"]), 0.0)


def _grda_coefficients(group: Group, step: float, first: bool) -> Coefficients:
    lr, mu = float(group["lr"]), group["mu"]
    growth = group["c"] * lr ** (mu + 0.5) * (step**mu - (step - 1.0) ** mu)
    return _threshold_coefficients(lr, growth, 1.0)


def _threshold_coefficients(step: float, threshold: float, scale: float, **others: float) -> Coefficients:
    names = ("beta1", "gradient_weight", "beta2", "square_weight", "root_offset")
    unused = dict.fromkeys(names, 0.0)
    return {"step": step, "threshold": threshold, "scale": scale, **unused, **others}


def _lin_breg_coefficients(group: Group, step: float, first: bool) -> Coefficients:
    lr, momentum, lam, delta = float(group["lr"]), group["momentum"], group["lam"], group["delta"]
    if momentum == 0:
        return _threshold_coefficients(lr, lam, delta)
    return _threshold_coefficients(1.0, lam, delta, beta1=momentum, gradient_weight=(1.0 - momentum) * lr)


def _ada_breg_coefficients(group: Group, step: float, first: bool) -> Coefficients:
    beta1, beta2 = (float(beta) for beta in group["betas"])
    correction = math.sqrt(1.0 - beta2**step)
    return _threshold_coefficients(
        float(group["lr"]) * correction / (1.0 - beta1**step),
        group["lam"],
        group["delta"],
        beta1=beta1,
        gradient_weight=1.0 - beta1,
        beta2=beta2,
        square_weight=1.0 - beta2,
        root_offset=group["eps"] * correction,
    )


def _lion_coefficients(group: Group, step: float, first: bool) -> Coefficients:
    beta1, beta2 = (float(beta) for beta in group["betas"])
    return {
        "lr": float(group["lr"]),
        "beta1": beta1,
        "step_weight": 1.0 - beta1,
        "beta2": beta2,
        "state_weight": 1.0 - beta2,
    }


COEFFICIENTS: dict[str, Callable[[Group, float, bool], Coefficients]] = {
    "sgd": _sgd_coefficients,
    "normalized_sgd": _normalized_sgd_coefficients,
    "mix_clip": _mix_clip_coefficients,
    "adam": _adam_coefficients,
    "nadam": _nadam_coefficients,
    "radam": _radam_coefficients,
    "rmsprop": _rmsprop_coefficients,
    "adagrad": _adagrad_coefficients,
    "adagrad_norm": _adagrad_norm_coefficients,
    "grda": _grda_coefficients,
    "lion": _lion_coefficients,
    "lin_breg": _lin_breg_coefficients,
    "ada_breg": _ada_breg_coefficients,
}
"""By the rule's name."""
