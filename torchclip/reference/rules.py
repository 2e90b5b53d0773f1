"""The update rules, each in the form of its paper: the reference that every kernel is checked against.

A rule is two functions, both without side effects, on tensors of the compute type. ``accumulate`` takes the gradient
into the state, and ``apply`` moves the parameter; norms are measured in between. The gradient has been through
``pipeline.prepare``, and the parameter through ``pipeline.decay``, so neither knows of clip policies or of decay.
Hyperparameters are numbers or 0-dim tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torchclip.reference.policies import Norms, clipped_step_size, normalized_step_size

Group = Mapping[str, Any]
State = dict[str, Tensor]


@dataclass(frozen=True)
class ReferenceRule:
    """An update rule.

    Args:
        accumulate: ``(gradient, state, group, first) -> new state``; ``first`` says that the state was made in this
            very step. The numbers of the state (``step``, ``l1``) are 0-dim float64 tensors.
        apply: ``(parameter, gradient, new state, group, norms) -> new parameter``; ``norms`` is None unless the rule
            clips itself.
        clip_factor: ``(norm of m, group) -> h(norm)/lr``, what a rule that clips itself reports; None for others.
    """

    accumulate: Callable[[Tensor, State, Group, bool], State]
    apply: Callable[[Tensor, Tensor, State, Group, Norms | None], Tensor]
    clip_factor: Callable[[Tensor, Group], Tensor] | None = None


# SGD with momentum, as torch.optim.SGD:
#
#     m ← g in the first step, and m ← μ m + (1 − dampening) g afterwards
#     p ← p − lr · m, or with Nesterov's momentum p ← p − lr · (g + μ m)
#
# Sutskever, Martens, Dahl, Hinton, On the importance of initialization and momentum in deep learning, ICML 2013,
# equations (1) to (4), with lr taken out of the momentum as torch does.


def _sgd_accumulate(gradient: Tensor, state: State, group: Group, first: bool) -> State:
    if group["momentum"] == 0:
        return {}
    if first:
        return {"momentum_buffer": gradient}
    return {"momentum_buffer": group["momentum"] * state["momentum_buffer"] + (1 - group["dampening"]) * gradient}


def _sgd_apply(parameter: Tensor, gradient: Tensor, state: State, group: Group, norms: Norms | None) -> Tensor:
    if group["momentum"] == 0:
        return parameter - group["lr"] * gradient
    if group["nesterov"]:
        return parameter - group["lr"] * (gradient + group["momentum"] * state["momentum_buffer"])
    return parameter - group["lr"] * state["momentum_buffer"]


# Normalized SGD with momentum:
#
#     m ← β m + (1 − β) g          from m = 0
#     p ← p − lr · m / (‖m‖ + eps)
#
# The baseline in the code of Zhang, Jin, Fang, Wang, Improved Analysis of Clipping Algorithms for Non-convex
# Optimization, NeurIPS 2020, arXiv 2010.02519; the momentum form is Cutkosky, Mehta, ICML 2020, arXiv 2002.03305.


def _averaged_momentum(gradient: Tensor, state: State, group: Group, first: bool) -> State:
    beta = group["momentum"]
    if beta == 0:
        return {}
    return {"momentum_buffer": beta * state["momentum_buffer"] + (1 - beta) * gradient}


def _normalized_sgd_apply(
    parameter: Tensor, gradient: Tensor, state: State, group: Group, norms: Norms | None
) -> Tensor:
    assert norms is not None, "normalized_sgd steps by the norm of its direction"
    momentum = state.get("momentum_buffer", gradient)
    return parameter - normalized_step_size(norms.direction, group["lr"], group["eps"]) * momentum


def _normalized_sgd_factor(norm: Tensor, group: Group) -> Tensor:
    return normalized_step_size(norm, 1.0, group["eps"])


# MixClip, and with ν = 1 MomClip, and with ν = 1 and the hard h SGDClip:
#
#     m ← β m + (1 − β) g          from m = 0
#     p ← p − ν h(‖m‖) m − (1 − ν) h(‖g‖) g,   h(r) = lr / (1 + lr·r/γ)  or  min(lr, γ/r)
#
# Zhang, Jin, Fang, Wang, NeurIPS 2020, arXiv 2010.02519, Algorithm 1.


def _mix_clip_step_size(norm: Tensor, group: Group) -> Tensor:
    return clipped_step_size(norm, group["lr"], group["gamma"], group["smooth"])


def _mix_clip_apply(parameter: Tensor, gradient: Tensor, state: State, group: Group, norms: Norms | None) -> Tensor:
    assert norms is not None, "mix_clip steps by the norms of its momentum and its gradient"
    nu = group["nu"]
    momentum = state.get("momentum_buffer", gradient)
    momentum_step = nu * _mix_clip_step_size(norms.direction, group) * momentum
    gradient_step = (1 - nu) * _mix_clip_step_size(norms.gradient, group) * gradient
    return parameter - momentum_step - gradient_step


def _mix_clip_factor(norm: Tensor, group: Group) -> Tensor:
    if group["lr"] == 0:  # the limit, where h/lr is 0/0
        return torch.ones_like(norm)
    return _mix_clip_step_size(norm, group) / group["lr"]


# Adam, and with amsgrad AMSGrad, as torch.optim.Adam:
#
#     m ← β₁ m + (1 − β₁) g,   v ← β₂ v + (1 − β₂) g²,   v_max ← max(v_max, v)
#     p ← p − lr · (m / (1 − β₁ᵗ)) / (sqrt(v / (1 − β₂ᵗ)) + eps)      with v_max in place of v under amsgrad
#
# Kingma, Ba, Adam: A Method for Stochastic Optimization, ICLR 2015, arXiv 1412.6980, Algorithm 1; Reddi, Kale, Kumar,
# On the Convergence of Adam and Beyond, ICLR 2018, arXiv 1904.09237, Algorithm 2 (torch adds the bias correction).


def _moments(gradient: Tensor, state: State, group: Group) -> State:
    beta1, beta2 = group["betas"]
    return {
        "step": state["step"] + 1,
        "exp_avg": beta1 * state["exp_avg"] + (1 - beta1) * gradient,
        "exp_avg_sq": beta2 * state["exp_avg_sq"] + (1 - beta2) * gradient * gradient,
    }


def _adam_accumulate(gradient: Tensor, state: State, group: Group, first: bool) -> State:
    new = _moments(gradient, state, group)
    if group["amsgrad"]:
        new["max_exp_avg_sq"] = torch.maximum(state["max_exp_avg_sq"], new["exp_avg_sq"])
    return new


def _adam_apply(parameter: Tensor, gradient: Tensor, state: State, group: Group, norms: Norms | None) -> Tensor:
    beta1, beta2 = group["betas"]
    second_moment = state["max_exp_avg_sq"] if group["amsgrad"] else state["exp_avg_sq"]
    step_size = group["lr"] / (1 - beta1 ** state["step"])
    denominator = second_moment.sqrt() / (1 - beta2 ** state["step"]).sqrt() + group["eps"]
    return parameter - step_size * (state["exp_avg"] / denominator)


# NAdam, Adam with Nesterov's momentum, as torch.optim.NAdam:
#
#     μ_t = β₁ (1 − ½ · 0.96^(t ψ)),   Π_t = μ_1 ⋯ μ_t,   m and v as Adam's
#     p ← p − lr · (μ_{t+1} m / (1 − Π_{t+1}) + (1 − μ_t) g / (1 − Π_t)) / (sqrt(v / (1 − β₂ᵗ)) + eps)
#
# Dozat, Incorporating Nesterov Momentum into Adam, ICLR 2016 workshop; ψ is momentum_decay.


def _nadam_momentum(step: Tensor, group: Group) -> Tensor:
    return group["betas"][0] * (1 - 0.5 * 0.96 ** (step * group["momentum_decay"]))


def _nadam_accumulate(gradient: Tensor, state: State, group: Group, first: bool) -> State:
    new = _moments(gradient, state, group)
    new["mu_product"] = state["mu_product"] * _nadam_momentum(new["step"], group)
    return new


def _nadam_apply(parameter: Tensor, gradient: Tensor, state: State, group: Group, norms: Norms | None) -> Tensor:
    t, product = state["step"], state["mu_product"]
    momentum, following = _nadam_momentum(t, group), _nadam_momentum(t + 1, group)
    average = following * state["exp_avg"] / (1 - product * following) + (1 - momentum) * gradient / (1 - product)
    return parameter - group["lr"] * average / (
        (state["exp_avg_sq"] / _correction2(state, group)).sqrt() + group["eps"]
    )


def _correction2(state: State, group: Group) -> Tensor:
    return 1 - group["betas"][1] ** state["step"]


# RAdam, Adam with a rectified variance, as torch.optim.RAdam:
#
#     ρ_∞ = 2 / (1 − β₂) − 1,   ρ_t = ρ_∞ − 2 t β₂ᵗ / (1 − β₂ᵗ),   m and v as Adam's
#     p ← p − lr · r_t · (m / (1 − β₁ᵗ)) · sqrt(1 − β₂ᵗ) / (sqrt(v) + eps)     where ρ_t > 5
#     p ← p − lr · m / (1 − β₁ᵗ)                                             before
#     r_t = sqrt((ρ_t − 4)(ρ_t − 2) ρ_∞ / ((ρ_∞ − 4)(ρ_∞ − 2) ρ_t))
#
# Liu, Jiang, He, Chen, Liu, Gao, Han, On the Variance of the Adaptive Learning Rate and Beyond, ICLR 2020,
# arXiv 1908.03265, Algorithm 2.


def _radam_accumulate(gradient: Tensor, state: State, group: Group, first: bool) -> State:
    return _moments(gradient, state, group)


def _radam_apply(parameter: Tensor, gradient: Tensor, state: State, group: Group, norms: Norms | None) -> Tensor:
    beta1, beta2 = group["betas"]
    t, correction2 = state["step"], _correction2(state, group)
    average = state["exp_avg"] / (1 - beta1**t)
    rho_inf = 2 / (1 - beta2) - 1
    rho = rho_inf - 2 * t * beta2**t / correction2
    if rho <= 5:
        return parameter - group["lr"] * average
    rectification = ((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho)).sqrt()
    adaptive = correction2.sqrt() / (state["exp_avg_sq"].sqrt() + group["eps"])
    return parameter - group["lr"] * rectification * average * adaptive


# RMSprop, as torch.optim.RMSprop:
#
#     s ← α s + (1 − α) g²,   a ← α a + (1 − α) g,   d = sqrt(s) + eps, or centered sqrt(s − a²) + eps
#     p ← p − lr · g / d,   or with momentum  b ← momentum b + g / d,   p ← p − lr b
#
# Tieleman, Hinton, Neural Networks for Machine Learning, lecture 6.5, 2012; centered: Graves, Generating Sequences With
# Recurrent Neural Networks, 2013, arXiv 1308.0850, equations (38) to (45).


def _rmsprop_denominator(state: State, group: Group) -> Tensor:
    variance = state["square_avg"]
    if group["centered"]:  # which rounding takes below zero where the gradient hardly varies
        variance = (variance - state["grad_avg"] ** 2).clamp(min=0)
    return variance.sqrt() + group["eps"]


def _rmsprop_accumulate(gradient: Tensor, state: State, group: Group, first: bool) -> State:
    alpha = group["alpha"]
    new = {"step": state["step"] + 1, "square_avg": alpha * state["square_avg"] + (1 - alpha) * gradient * gradient}
    if group["centered"]:
        new["grad_avg"] = alpha * state["grad_avg"] + (1 - alpha) * gradient
    if group["momentum"] > 0:
        direction = gradient / _rmsprop_denominator(new, group)
        new["momentum_buffer"] = group["momentum"] * state["momentum_buffer"] + direction
    return new


def _rmsprop_apply(parameter: Tensor, gradient: Tensor, state: State, group: Group, norms: Norms | None) -> Tensor:
    if group["momentum"] > 0:
        return parameter - group["lr"] * state["momentum_buffer"]
    return parameter - group["lr"] * (gradient / _rmsprop_denominator(state, group))


# Adagrad, as torch.optim.Adagrad:
#
#     sum ← sum + g²                                               from initial_accumulator_value
#     p ← p − lr / (1 + (t − 1) lr_decay) · g / (sqrt(sum) + eps)
#
# Duchi, Hazan, Singer, Adaptive Subgradient Methods for Online Learning and Stochastic Optimization, JMLR 2011.


def _adagrad_accumulate(gradient: Tensor, state: State, group: Group, first: bool) -> State:
    return {"step": state["step"] + 1, "sum": state["sum"] + gradient * gradient}


def _adagrad_apply(parameter: Tensor, gradient: Tensor, state: State, group: Group, norms: Norms | None) -> Tensor:
    lr = group["lr"] / (1 + (state["step"] - 1) * group["lr_decay"])
    return parameter - lr * (gradient / (state["sum"].sqrt() + group["eps"]))


# gRDA, the generalized regularized dual averaging of directional pruning:
#
#     a ← a − lr · g                                               from a = p
#     l₁ ← l₁ + c · lr^(μ + 1/2) · (t^μ − (t − 1)^μ)                 from 0
#     p ← sign(a) · max(|a| − l₁, 0)
#
# Chao, Wang, Xing, Cheng, Directional Pruning of Deep Neural Networks, NeurIPS 2020, arXiv 2006.09358, the gRDA
# recursion; with a constant lr, l₁ = c · lr^(μ + 1/2) · t^μ is their tuning function.


def _grda_accumulate(gradient: Tensor, state: State, group: Group, first: bool) -> State:
    lr, mu = group["lr"], group["mu"]
    t = state["step"] + 1
    growth = group["c"] * lr ** (mu + 0.5) * (t**mu - (t - 1) ** mu)
    return {"step": t, "l1": state["l1"] + growth, "accumulator": state["accumulator"] - lr * gradient}


def _grda_apply(parameter: Tensor, gradient: Tensor, state: State, group: Group, norms: Norms | None) -> Tensor:
    accumulator = state["accumulator"]
    return accumulator.sign() * (accumulator.abs() - state["l1"]).clamp(min=0)


RULES: dict[str, ReferenceRule] = {
    "sgd": ReferenceRule(_sgd_accumulate, _sgd_apply),
    "normalized_sgd": ReferenceRule(_averaged_momentum, _normalized_sgd_apply, _normalized_sgd_factor),
    "mix_clip": ReferenceRule(_averaged_momentum, _mix_clip_apply, _mix_clip_factor),
    "adam": ReferenceRule(_adam_accumulate, _adam_apply),
    "nadam": ReferenceRule(_nadam_accumulate, _nadam_apply),
    "radam": ReferenceRule(_radam_accumulate, _radam_apply),
    "rmsprop": ReferenceRule(_rmsprop_accumulate, _rmsprop_apply),
    "adagrad": ReferenceRule(_adagrad_accumulate, _adagrad_apply),
    "grda": ReferenceRule(_grda_accumulate, _grda_apply),
}
"""Every rule by its name in ``torchclip.rule_specs``."""
