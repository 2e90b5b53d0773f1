"""The rules that divide an average of the gradient by the root of an average of its square: Adam's family."""

from __future__ import annotations

import torch
from torch import Tensor

from torchclip.rules.norms import Norms
from torchclip.rules.rule_spec import Group, RuleSpec, ScalarSlot, State, StateSlot, Stepped
from torchclip.rules.state_numbers import FRACTION

# Adam, and with amsgrad AMSGrad, as torch.optim.Adam:
#
#     m ← β₁ m + (1 − β₁) g,   v ← β₂ v + (1 − β₂) g²,   v_max ← max(v_max, v)
#     p ← p − lr · (m / (1 − β₁ᵗ)) / (sqrt(v / (1 − β₂ᵗ)) + eps)      with v_max in place of v under amsgrad
#
# Kingma, Ba, Adam: A Method for Stochastic Optimization, ICLR 2015, arXiv 1412.6980, Algorithm 1; Reddi, Kale, Kumar,
# On the Convergence of Adam and Beyond, ICLR 2018, arXiv 1904.09237, Algorithm 2 (torch adds the bias correction).


def moments(gradient: Tensor, state: State, group: Group) -> State:
    """The averages of the gradient and of its square after this step, and its number."""
    beta1, beta2 = group["betas"]
    return {
        "step": state["step"] + 1,
        "exp_avg": beta1 * state["exp_avg"] + (1 - beta1) * gradient,
        "exp_avg_sq": beta2 * state["exp_avg_sq"] + (1 - beta2) * gradient * gradient,
    }


def _adam(parameter: Tensor, gradient: Tensor, state: State, group: Group, first: bool, norms: Norms | None) -> Stepped:
    beta1, beta2 = group["betas"]
    new = moments(gradient, state, group)
    t, second_moment = new["step"], new["exp_avg_sq"]
    if group["amsgrad"]:
        new["max_exp_avg_sq"] = second_moment = torch.maximum(state["max_exp_avg_sq"], second_moment)
    step_size = group["lr"] / (1 - beta1**t)
    denominator = second_moment.sqrt() / (1 - beta2**t).sqrt() + group["eps"]
    return parameter - step_size * (new["exp_avg"] / denominator), new


def _adam_slots(group: Group) -> tuple[str, ...]:
    return ("exp_avg", "exp_avg_sq", "max_exp_avg_sq") if group["amsgrad"] else ("exp_avg", "exp_avg_sq")


ADAM = RuleSpec(
    name="adam",
    family="second_moment",
    hyperparameters=("betas", "eps", "amsgrad"),
    slots=(
        StateSlot("exp_avg"),
        StateSlot("exp_avg_sq", non_negative=True),
        StateSlot("max_exp_avg_sq", non_negative=True, optional=True),
    ),
    used_slots=_adam_slots,
    scalars=(ScalarSlot("step"),),
    step=_adam,
    citation="Kingma, Ba, Adam, ICLR 2015, arXiv 1412.6980; AMSGrad: Reddi et al., ICLR 2018, arXiv 1904.09237",
)


# NAdam, Adam with Nesterov's momentum, as torch.optim.NAdam:
#
#     μ_t = β₁ (1 − ½ · 0.96^(t ψ)),   Π_t = μ_1 ⋯ μ_t,   m and v as Adam's
#     p ← p − lr · (μ_{t+1} m / (1 − Π_{t+1}) + (1 − μ_t) g / (1 − Π_t)) / (sqrt(v / (1 − β₂ᵗ)) + eps)
#
# Dozat, Incorporating Nesterov Momentum into Adam, ICLR 2016 workshop; ψ is momentum_decay.


def _nadam_momentum(step: Tensor, group: Group) -> Tensor:
    return group["betas"][0] * (1 - 0.5 * 0.96 ** (step * group["momentum_decay"]))


def _nadam(
    parameter: Tensor, gradient: Tensor, state: State, group: Group, first: bool, norms: Norms | None
) -> Stepped:
    new = moments(gradient, state, group)
    t = new["step"]
    momentum, following = _nadam_momentum(t, group), _nadam_momentum(t + 1, group)
    new["mu_product"] = product = state["mu_product"] * momentum
    average = following * new["exp_avg"] / (1 - product * following) + (1 - momentum) * gradient / (1 - product)
    denominator = (new["exp_avg_sq"] / (1 - group["betas"][1] ** t)).sqrt() + group["eps"]
    return parameter - group["lr"] * average / denominator, new


NADAM = RuleSpec(
    name="nadam",
    family="second_moment",
    hyperparameters=("betas", "eps", "momentum_decay"),
    slots=(StateSlot("exp_avg"), StateSlot("exp_avg_sq", non_negative=True)),
    used_slots=lambda group: ("exp_avg", "exp_avg_sq"),
    scalars=(ScalarSlot("step"), ScalarSlot("mu_product", initial=1.0, wanted=FRACTION)),
    step=_nadam,
    citation="Dozat, Incorporating Nesterov Momentum into Adam, ICLR 2016 workshop",
)


# RAdam, Adam with a rectified variance, as torch.optim.RAdam:
#
#     ρ_∞ = 2 / (1 − β₂) − 1,   ρ_t = ρ_∞ − 2 t β₂ᵗ / (1 − β₂ᵗ),   m and v as Adam's
#     p ← p − lr · r_t · (m / (1 − β₁ᵗ)) · sqrt(1 − β₂ᵗ) / (sqrt(v) + eps)     where ρ_t > 5
#     p ← p − lr · m / (1 − β₁ᵗ)                                             before
#     r_t = sqrt((ρ_t − 4)(ρ_t − 2) ρ_∞ / ((ρ_∞ − 4)(ρ_∞ − 2) ρ_t))
#
# Liu, Jiang, He, Chen, Liu, Gao, Han, On the Variance of the Adaptive Learning Rate and Beyond, ICLR 2020,
# arXiv 1908.03265, Algorithm 2.


def _radam(
    parameter: Tensor, gradient: Tensor, state: State, group: Group, first: bool, norms: Norms | None
) -> Stepped:
    beta1, beta2 = group["betas"]
    new = moments(gradient, state, group)
    t, correction2 = new["step"], 1 - beta2 ** new["step"]
    average = new["exp_avg"] / (1 - beta1**t)
    rho_inf = 2 / (1 - beta2) - 1
    rho = rho_inf - 2 * t * beta2**t / correction2
    rectified = rho > 5
    # 1 under the roots that are not taken, of which one may be negative and the other 0: autograd would find their NaN.
    ratio = torch.where(rectified, (rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho), 1.0)
    second_moment = torch.where(rectified, new["exp_avg_sq"], 1.0)
    adaptive = correction2.sqrt() / (second_moment.sqrt() + group["eps"])
    return parameter - group["lr"] * average * torch.where(rectified, ratio.sqrt() * adaptive, 1.0), new


RADAM = RuleSpec(
    name="radam",
    family="second_moment",
    hyperparameters=("betas", "eps"),
    slots=(StateSlot("exp_avg"), StateSlot("exp_avg_sq", non_negative=True)),
    used_slots=lambda group: ("exp_avg", "exp_avg_sq"),
    scalars=(ScalarSlot("step"),),
    step=_radam,
    citation="Liu et al., On the Variance of the Adaptive Learning Rate and Beyond, ICLR 2020, arXiv 1908.03265",
)
