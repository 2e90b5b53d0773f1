"""The update rules, each in the form of its paper: the reference that every kernel is checked against.

A rule is two functions, both without side effects, on tensors of the compute type. ``accumulate`` takes the gradient
into the state, and ``apply`` moves the parameter; norms are measured in between. The gradient has been through
``pipeline.prepare``, and the parameter through ``pipeline.decay``, so neither knows of clip policies or of decay.
Hyperparameters are numbers or 0-dim tensors. Adam's family is in ``moment_rules``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from torchclip.backends.reference import moment_rules
from torchclip.backends.reference.policies import Norms, clipped_step_size, normalized_step_size
from torchclip.backends.reference.rule import Group, ReferenceRule, State
from torchclip.policies.clip import Scope
from torchclip.rules.norms import norm_dtype

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


def _normalized_sgd_factor(norms: Norms, group: Group) -> Tensor:
    return normalized_step_size(norms.direction, 1.0, group["eps"])


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


def _mix_clip_factor(norms: Norms, group: Group) -> Tensor:
    lr = torch.zeros_like(norms.direction) + group["lr"]
    # At a rate of 0 the limit, where h/lr is 0/0.
    return torch.where(lr == 0, 1.0, _mix_clip_step_size(norms.direction, group) / torch.where(lr == 0, 1.0, lr))


# AdaGrad-Norm:
#
#     s ← s + ‖g‖²                  over the scope, from s = b₀²
#     m ← β m + (1 − β) g          from m = 0
#     p ← p − lr · m / sqrt(s),   and over rows p ← p − lr · m / (sqrt(s) + 1e-10)
#
# Ward, Wu, Bottou, AdaGrad stepsizes: Sharp Convergence over Nonconvex Landscapes, ICML 2019, arXiv 1806.01811,
# Algorithm 1; over rows, and with momentum, the baseline in the code of Wu, Xie, Du, Ward, AAAI 2022, arXiv 2109.08282.
# Where parameters share an s, ``Norms.sum`` is the new one, and the state has none.


def _adagrad_norm_accumulate(gradient: Tensor, state: State, group: Group, first: bool) -> State:
    new = _averaged_momentum(gradient, state, group, first)
    if "sum" in state:
        # The squares of a float32 gradient need not fit float32, nor need the sum of many of them be exact there.
        squares = gradient.to(norm_dtype(gradient.device)).square().sum_to_size(state["sum"].shape)
        new["sum"] = (state["sum"] + squares).to(state["sum"].dtype)
    return new


def _adagrad_norm_apply(parameter: Tensor, gradient: Tensor, state: State, group: Group, norms: Norms | None) -> Tensor:
    assert norms is not None, "adagrad_norm needs the scope of its sum"
    total = state.get("sum", norms.sum)
    assert total is not None, f"adagrad_norm has no sum over the scope {norms.scope.value!r}"
    root = total.sqrt() + 1e-10 if norms.scope is Scope.ROW else total.sqrt()
    return parameter - group["lr"] * (state.get("momentum_buffer", gradient) / root)


def _adagrad_norm_factor(norms: Norms, group: Group) -> Tensor:
    assert norms.sum is not None, f"adagrad_norm reports no factor over the scope {norms.scope.value!r}"
    return norms.sum.rsqrt()


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
    "adam": ReferenceRule(moment_rules.adam_accumulate, moment_rules.adam_apply),
    "nadam": ReferenceRule(moment_rules.nadam_accumulate, moment_rules.nadam_apply),
    "radam": ReferenceRule(moment_rules.radam_accumulate, moment_rules.radam_apply),
    "rmsprop": ReferenceRule(_rmsprop_accumulate, _rmsprop_apply),
    "adagrad": ReferenceRule(_adagrad_accumulate, _adagrad_apply),
    "adagrad_norm": ReferenceRule(_adagrad_norm_accumulate, _adagrad_norm_apply, _adagrad_norm_factor),
    "grda": ReferenceRule(_grda_accumulate, _grda_apply),
}
"""Every rule by its name in ``torchclip.rules.table``."""
