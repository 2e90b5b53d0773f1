"""The update rules, each in the form of its paper: the reference that every kernel is checked against.

A rule is a function without side effects, on tensors of the compute type, from the parameter, the gradient and the old
state to the new parameter and the new state. The gradient has been through ``pipeline.prepare``, and the parameter
through ``pipeline.decay``, so that no rule knows of clip policies or of decay. Hyperparameters are numbers or 0-dim
tensors. Adam's family is in ``moment_rules``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from torchclip.backends.reference import moment_rules
from torchclip.backends.reference.policies import Norms, clipped_step_size, normalized_step_size
from torchclip.backends.reference.rule import Group, ReferenceRule, State, Stepped
from torchclip.policies.clip import Scope
from torchclip.rules.norms import norm_dtype

# SGD with momentum, as torch.optim.SGD:
#
#     m ← g in the first step, and m ← μ m + (1 − dampening) g afterwards
#     p ← p − lr · m, or with Nesterov's momentum p ← p − lr · (g + μ m)
#
# Sutskever, Martens, Dahl, Hinton, On the importance of initialization and momentum in deep learning, ICML 2013,
# equations (1) to (4), with lr taken out of the momentum as torch does.


def _sgd(parameter: Tensor, gradient: Tensor, state: State, group: Group, first: bool, norms: Norms | None) -> Stepped:
    lr, momentum = group["lr"], group["momentum"]
    if momentum == 0:
        return parameter - lr * gradient, {}
    buffer = gradient if first else momentum * state["momentum_buffer"] + (1 - group["dampening"]) * gradient
    direction = gradient + momentum * buffer if group["nesterov"] else buffer
    return parameter - lr * direction, {"momentum_buffer": buffer}


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


def _normalized_sgd(
    parameter: Tensor, gradient: Tensor, state: State, group: Group, first: bool, norms: Norms | None
) -> Stepped:
    assert norms is not None, "normalized_sgd steps by the norm of its direction"
    new = _averaged_momentum(gradient, state, group, first)
    momentum = new.get("momentum_buffer", gradient)
    return parameter - normalized_step_size(norms.direction, group["lr"], group["eps"]) * momentum, new


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


def _mix_clip(
    parameter: Tensor, gradient: Tensor, state: State, group: Group, first: bool, norms: Norms | None
) -> Stepped:
    assert norms is not None, "mix_clip steps by the norms of its momentum and its gradient"
    nu, new = group["nu"], _averaged_momentum(gradient, state, group, first)
    momentum = new.get("momentum_buffer", gradient)
    momentum_step = nu * _mix_clip_step_size(norms.direction, group) * momentum
    gradient_step = (1 - nu) * _mix_clip_step_size(norms.gradient, group) * gradient
    return parameter - momentum_step - gradient_step, new


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


def _adagrad_norm(
    parameter: Tensor, gradient: Tensor, state: State, group: Group, first: bool, norms: Norms | None
) -> Stepped:
    assert norms is not None, "adagrad_norm needs the scope of its sum"
    new = _adagrad_norm_accumulate(gradient, state, group, first)
    total = new.get("sum", norms.sum)
    assert total is not None, f"adagrad_norm has no sum over the scope {norms.scope.value!r}"
    root = total.sqrt() + 1e-10 if norms.scope is Scope.ROW else total.sqrt()
    return parameter - group["lr"] * (new.get("momentum_buffer", gradient) / root), new


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


def _rmsprop(
    parameter: Tensor, gradient: Tensor, state: State, group: Group, first: bool, norms: Norms | None
) -> Stepped:
    alpha = group["alpha"]
    variance = alpha * state["square_avg"] + (1 - alpha) * gradient * gradient
    new = {"step": state["step"] + 1, "square_avg": variance}
    if group["centered"]:
        new["grad_avg"] = alpha * state["grad_avg"] + (1 - alpha) * gradient
        variance = (variance - new["grad_avg"] ** 2).clamp(min=0)  # rounding takes it below 0 where g hardly varies
    direction = gradient / (variance.sqrt() + group["eps"])
    if group["momentum"] > 0:
        new["momentum_buffer"] = direction = group["momentum"] * state["momentum_buffer"] + direction
    return parameter - group["lr"] * direction, new


# Adagrad, as torch.optim.Adagrad:
#
#     sum ← sum + g²                                               from initial_accumulator_value
#     p ← p − lr / (1 + (t − 1) lr_decay) · g / (sqrt(sum) + eps)
#
# Duchi, Hazan, Singer, Adaptive Subgradient Methods for Online Learning and Stochastic Optimization, JMLR 2011.


def _adagrad(
    parameter: Tensor, gradient: Tensor, state: State, group: Group, first: bool, norms: Norms | None
) -> Stepped:
    t, total = state["step"] + 1, state["sum"] + gradient * gradient
    lr = group["lr"] / (1 + (t - 1) * group["lr_decay"])
    return parameter - lr * (gradient / (total.sqrt() + group["eps"])), {"step": t, "sum": total}


# gRDA, the generalized regularized dual averaging of directional pruning:
#
#     a ← a − lr · g                                               from a = p
#     l₁ ← l₁ + c · lr^(μ + 1/2) · (t^μ − (t − 1)^μ)                 from 0
#     p ← sign(a) · max(|a| − l₁, 0)
#
# Chao, Wang, Xing, Cheng, Directional Pruning of Deep Neural Networks, NeurIPS 2020, arXiv 2006.09358, the gRDA
# recursion; with a constant lr, l₁ = c · lr^(μ + 1/2) · t^μ is their tuning function.


def _grda(parameter: Tensor, gradient: Tensor, state: State, group: Group, first: bool, norms: Norms | None) -> Stepped:
    lr, mu = group["lr"], group["mu"]
    t = state["step"] + 1
    l1 = state["l1"] + group["c"] * lr ** (mu + 0.5) * (t**mu - (t - 1) ** mu)
    accumulator = state["accumulator"] - lr * gradient
    stepped = accumulator.sign() * (accumulator.abs() - l1).clamp(min=0)
    return stepped, {"step": t, "l1": l1, "accumulator": accumulator}


RULES: dict[str, ReferenceRule] = {
    "sgd": ReferenceRule(_sgd),
    "normalized_sgd": ReferenceRule(_normalized_sgd, _averaged_momentum, _normalized_sgd_factor),
    "mix_clip": ReferenceRule(_mix_clip, _averaged_momentum, _mix_clip_factor),
    "adam": ReferenceRule(moment_rules.adam),
    "nadam": ReferenceRule(moment_rules.nadam),
    "radam": ReferenceRule(moment_rules.radam),
    "rmsprop": ReferenceRule(_rmsprop),
    "adagrad": ReferenceRule(_adagrad),
    "adagrad_norm": ReferenceRule(_adagrad_norm, _adagrad_norm_accumulate, _adagrad_norm_factor),
    "grda": ReferenceRule(_grda),
}
"""Every rule by its name in ``torchclip.rules.table``."""
