"""The rules whose parameter is an accumulator drawn to zero, so that there are exact zeros: gRDA, LinBreg, AdaBreg."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from torchclip.rules.norms import Norms
from torchclip.rules.rule_spec import Group, RuleSpec, ScalarSlot, State, StateSlot, Stepped, copy_of
from torchclip.rules.second_moment import moments
from torchclip.rules.state_numbers import NON_NEGATIVE

THRESHOLD_SCALE = "threshold_scale"
"""The number of state of a param group that its ``target_sparsity`` steers."""

TARGET = "target_sparsity"
"""The key of a param group that holds the share of zeros to steer to, where it is steered."""

GAIN = 0.25
"""κ. Where a relative change of the threshold moves the share of zeros by less than 2/κ = 8 times as much, the share
settles. Where the threshold has to grow with t, since v does, the share lags by 1 / (κ t)."""

FASTEST = 0.01
"""The most that a threshold moves in a step, as a share of it. A network whose weights go to zero faster than it learns
which of them it can spare does not learn at all."""

RANGE = (1e-6, 1e6)
"""In which a scale stays, so that a target that no threshold reaches does not carry it out of all bounds."""


def steers(spec: RuleSpec, param_groups: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a threshold of the rule goes by zeros."""
    return spec.family == "soft_threshold" and any(TARGET in group for group in param_groups)


def steered(scale: Tensor, target: Tensor | float, share: Tensor) -> Tensor:
    r"""The factor on a group's threshold in a step that finds this share of zeros in it, 0-dim.

    .. math:: s \leftarrow s\, e^d, \quad d = 0.25\, (\text{target} - z) \text{ within } \pm 0.01

    Args:
        scale: the factor of the step before, 0-dim.
        target: the share to steer to.
        share: that of the parameters with a gradient, 0-dim.
    """
    move = (GAIN * (target - share)).clamp(-FASTEST, FASTEST)
    return (scale * move.exp()).clamp(*RANGE)


def scale_of(group: Group) -> Tensor | float:
    """The factor on the group's threshold: what ``target_sparsity`` has steered it to, and 1 without."""
    shared = group.get("shared")
    scale: Tensor | float = shared.get(THRESHOLD_SCALE, 1.0) if isinstance(shared, dict) else 1.0
    return scale


def shrunk(value: Tensor, threshold: Tensor | float) -> Tensor:
    """``sign(value) · max(|value| − threshold, 0)``."""
    if isinstance(threshold, Tensor):
        threshold = threshold.to(value.device)
    return value.sign() * (value.abs() - threshold).clamp(min=0)


# gRDA, the generalized regularized dual averaging of directional pruning:
#
#     a ← a − lr · g                                               from a = p
#     l₁ ← l₁ + c · lr^(μ + 1/2) · (t^μ − (t − 1)^μ)                 from 0
#     p ← sign(a) · max(|a| − s l₁, 0)                               s = 1 unless target_sparsity steers it
#
# Chao, Wang, Xing, Cheng, Directional Pruning of Deep Neural Networks, NeurIPS 2020, arXiv 2006.09358, the gRDA
# recursion; with a constant lr, l₁ = c · lr^(μ + 1/2) · t^μ is their tuning function.


def _grda(parameter: Tensor, gradient: Tensor, state: State, group: Group, first: bool, norms: Norms | None) -> Stepped:
    lr, mu = group["lr"], group["mu"]
    t = state["step"] + 1
    l1 = state["l1"] + group["c"] * lr ** (mu + 0.5) * (t**mu - (t - 1) ** mu)
    accumulator = state["accumulator"] - lr * gradient
    return shrunk(accumulator, scale_of(group) * l1), {"step": t, "l1": l1, "accumulator": accumulator}


def _accumulator_of(parameter: Tensor, state: State, group: Group) -> State:
    threshold: Tensor = scale_of(group) * state["l1"]
    return {"accumulator": parameter + threshold.to(parameter) * parameter.sign()}


GRDA = RuleSpec(
    name="grda",
    family="soft_threshold",
    hyperparameters=("c", "mu"),
    slots=(StateSlot("accumulator", of_parameter=copy_of, at_least_float32=True),),
    used_slots=lambda group: ("accumulator",),
    scalars=(ScalarSlot("step"), ScalarSlot("l1", torch.float64, wanted=NON_NEGATIVE)),
    aliases={"iter_num": "step", "l1_accumulation": "l1"},
    takes_complex=False,
    state_of=_accumulator_of,
    step=_grda,
    citation="Chao, Wang, Xing, Cheng, Directional Pruning of Deep Neural Networks, NeurIPS 2020, arXiv 2006.09358",
)


# Linearised Bregman iterations; with R = λ ‖·‖₁ the proximal step of the subgradient v is a soft threshold:
#
#     LinBreg:  v ← v − lr g,   or with momentum β   m ← β m + (1 − β) lr g,   v ← v − m        from m = 0
#     AdaBreg:  v ← v − lr / (1 − β₁ᵗ) · m / (sqrt(s) / sqrt(1 − β₂ᵗ) + eps),                   m and s as Adam's
#     both:     p ← δ · sign(v) · max(|v| − s λ, 0)                                      from v = p/δ + s λ sign(p)
#
# Bungert, Roith, Tenbrinck, Burger, A Bregman Learning Framework for Sparse Neural Networks, JMLR 2022,
# arXiv 2105.04319, Algorithms 1 to 3.


def _sub_grad(parameter: Tensor, group: Group) -> Tensor:
    threshold = scale_of(group) * group["lam"]
    if isinstance(threshold, Tensor):
        threshold = threshold.to(parameter.device)
    sub_grad: Tensor = parameter / group["delta"] + threshold * parameter.sign()
    return sub_grad.to(parameter.dtype)  # of one number it would be the threshold's


def _sub_grad_of(parameter: Tensor, state: State, group: Group) -> State:
    return {"sub_grad": _sub_grad(parameter, group)}


SUB_GRAD = StateSlot("sub_grad", of_parameter=_sub_grad, at_least_float32=True)


def _bregman_step(sub_grad: Tensor, group: Group) -> Tensor:
    parameter: Tensor = group["delta"] * shrunk(sub_grad, scale_of(group) * group["lam"])
    return parameter


def _lin_breg(
    parameter: Tensor, gradient: Tensor, state: State, group: Group, first: bool, norms: Norms | None
) -> Stepped:
    momentum, change, new = group["momentum"], group["lr"] * gradient, {}
    if momentum != 0:
        new["momentum_buffer"] = change = momentum * state["momentum_buffer"] + (1 - momentum) * change
    new["sub_grad"] = state["sub_grad"] - change
    return _bregman_step(new["sub_grad"], group), new


LIN_BREG = RuleSpec(
    name="lin_breg",
    family="soft_threshold",
    hyperparameters=("lam", "delta", "momentum"),
    slots=(SUB_GRAD, StateSlot("momentum_buffer", at_least_float32=True, optional=True)),
    used_slots=lambda group: ("sub_grad", "momentum_buffer") if group["momentum"] != 0 else ("sub_grad",),
    scalars=(),
    takes_complex=False,
    state_of=_sub_grad_of,
    step=_lin_breg,
    citation="Bungert, Roith, Tenbrinck, Burger, A Bregman Learning Framework for Sparse Neural Networks, JMLR 2022, "
    "arXiv 2105.04319",
)


def _ada_breg(
    parameter: Tensor, gradient: Tensor, state: State, group: Group, first: bool, norms: Norms | None
) -> Stepped:
    new = moments(gradient, state, group)
    (beta1, beta2), t = group["betas"], new["step"]
    denominator = new["exp_avg_sq"].sqrt() / (1 - beta2**t).sqrt() + group["eps"]
    new["sub_grad"] = state["sub_grad"] - group["lr"] / (1 - beta1**t) * (new["exp_avg"] / denominator)
    return _bregman_step(new["sub_grad"], group), new


ADA_BREG = RuleSpec(
    name="ada_breg",
    family="soft_threshold",
    hyperparameters=("lam", "delta", "betas", "eps"),
    slots=(SUB_GRAD, StateSlot("exp_avg", at_least_float32=True), StateSlot("exp_avg_sq", at_least_float32=True)),
    used_slots=lambda group: ("sub_grad", "exp_avg", "exp_avg_sq"),
    scalars=(ScalarSlot("step"),),
    takes_complex=False,
    state_of=_sub_grad_of,
    step=_ada_breg,
    citation=LIN_BREG.citation,
)
