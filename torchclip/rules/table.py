"""Every update rule as Python knows it: its state, its hyperparameters, and its step in the form of its paper.

Here are the rules that share no arithmetic with others, and the list of all. The order of hyperparameters and state is
what ``csrc/rules/<rule>.h`` reads them in.
"""

from __future__ import annotations

import torch
from torch import Tensor

from torchclip.rules.momentum import ADAGRAD_NORM, MIX_CLIP, NORMALIZED_SGD, SGD
from torchclip.rules.norms import Norms
from torchclip.rules.rule_spec import Group, RuleSpec, ScalarSlot, State, StateSlot, Stepped
from torchclip.rules.second_moment import ADAM, NADAM, RADAM
from torchclip.rules.soft_threshold import ADA_BREG, GRDA, LIN_BREG

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


def _rmsprop_slots(group: Group) -> tuple[str, ...]:
    momentum = ("momentum_buffer",) if group["momentum"] > 0 else ()
    return ("square_avg", *momentum, *(("grad_avg",) if group["centered"] else ()))


RMSPROP = RuleSpec(
    name="rmsprop",
    family="root_mean_square",
    hyperparameters=("alpha", "eps", "momentum", "centered"),
    slots=(
        StateSlot("square_avg", non_negative=True),
        StateSlot("momentum_buffer", optional=True),
        StateSlot("grad_avg", optional=True),
    ),
    used_slots=_rmsprop_slots,
    scalars=(ScalarSlot("step"),),
    step=_rmsprop,
    citation="Tieleman, Hinton, Neural Networks for Machine Learning, lecture 6.5, 2012; centered: Graves, 2013, "
    "arXiv 1308.0850",
)


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


ADAGRAD = RuleSpec(
    name="adagrad",
    family="root_mean_square",
    hyperparameters=("lr_decay", "eps"),
    slots=(StateSlot("sum", lambda group: float(group["initial_accumulator_value"]), non_negative=True),),
    used_slots=lambda group: ("sum",),
    scalars=(ScalarSlot("step"),),
    step=_adagrad,
    citation="Duchi, Hazan, Singer, Adaptive Subgradient Methods for Online Learning, JMLR 2011",
)


# Lion:
#
#     p ← p − lr · sign(β₁ m + (1 − β₁) g),   then  m ← β₂ m + (1 − β₂) g
#
# Chen et al., Symbolic Discovery of Optimization Algorithms, NeurIPS 2023, arXiv 2302.06675, Algorithm 2.


def _lion(parameter: Tensor, gradient: Tensor, state: State, group: Group, first: bool, norms: Norms | None) -> Stepped:
    (beta1, beta2), exp_avg = group["betas"], state["exp_avg"]
    average = beta1 * exp_avg + (1 - beta1) * gradient
    direction = torch.where(average.isnan(), average, average.sign())  # torch's sign of NaN is 0
    return parameter - group["lr"] * direction, {"exp_avg": beta2 * exp_avg + (1 - beta2) * gradient}


LION = RuleSpec(
    name="lion",
    family="sign_of_average",
    hyperparameters=("betas",),
    slots=(StateSlot("exp_avg"),),
    used_slots=lambda group: ("exp_avg",),
    scalars=(),
    step=_lion,
    citation="Chen et al., Symbolic Discovery of Optimization Algorithms, NeurIPS 2023, arXiv 2302.06675",
)

RULES: dict[str, RuleSpec] = {
    rule.name: rule
    for rule in (
        *(SGD, NORMALIZED_SGD, MIX_CLIP, ADAM, NADAM, RADAM, RMSPROP, ADAGRAD, ADAGRAD_NORM, GRDA, LION, LIN_BREG),
        ADA_BREG,
    )
}
"""Every rule by its name."""
