"""What the host knows of each update rule: its hyperparameters, its state and its coefficients.

The names and their order are those of ``csrc/rules/<rule>.h``; a contract test compares the two, and the values of
the coefficients over a grid of hyperparameters and steps. The maths of an element is not here: it is a functor in
``csrc/rules``, and, in the papers' form, a function in ``torchclip.backends.reference.rules``.
"""

from __future__ import annotations

import math

import torch

from torchclip.rules.norms import Scope
from torchclip.rules.rule_spec import Coefficients, Extent, Group, RuleSpec, ScalarSlot, StateSlot
from torchclip.rules.state_numbers import FRACTION, NON_NEGATIVE

ROW_EPS = 1e-10
"""Added to the root of a row's sum by AdaGradNorm's authors, and therefore here."""


def _momentum_slots(group: Group) -> tuple[str, ...]:
    return ("momentum_buffer",) if group["momentum"] != 0 else ()


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


def _sgd_conflict(group: Group) -> str | None:
    dampening = group["dampening"]
    if not (group["nesterov"] and group["momentum"] != 0 and dampening != 0):
        return None  # without a momentum it is plain SGD, as torch's
    return f"Nesterov momentum requires a momentum and zero dampening; got {dampening=}: leave one of them out"


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


def _adam_slots(group: Group) -> tuple[str, ...]:
    return ("exp_avg", "exp_avg_sq", "max_exp_avg_sq") if group["amsgrad"] else ("exp_avg", "exp_avg_sq")


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


def _rmsprop_slots(group: Group) -> tuple[str, ...]:
    momentum = ("momentum_buffer",) if group["momentum"] > 0 else ()
    return ("square_avg", *momentum, *(("grad_avg",) if group["centered"] else ()))


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


def _b0_squared(group: Group) -> float:
    return float(group["b0"]) ** 2


def _adagrad_norm_coefficients(group: Group, step: float, first: bool) -> Coefficients:
    return _averaged_momentum_coefficients(group, float(group["lr"]), 0.0)


def _grda_coefficients(group: Group, step: float, first: bool) -> Coefficients:
    lr, mu = float(group["lr"]), group["mu"]
    growth = group["c"] * lr ** (mu + 0.5) * (step**mu - (step - 1.0) ** mu)
    return {"lr": lr, "threshold": growth}


SGD = RuleSpec(
    name="sgd",
    family="momentum",
    hyperparameters=("momentum", "dampening", "nesterov"),
    slots=(StateSlot("momentum_buffer", optional=True),),
    used_slots=_momentum_slots,
    scalars=(),
    coefficients=_sgd_coefficients,
    conflict=_sgd_conflict,
    first_differs=lambda group: group["momentum"] != 0 and group["dampening"] != 0,
    citation="Sutskever et al., On the importance of initialization and momentum in deep learning, ICML 2013",
)

NORMALIZED_SGD = RuleSpec(
    name="normalized_sgd",
    family="momentum",
    hyperparameters=("momentum", "eps"),
    slots=(StateSlot("momentum_buffer", optional=True),),
    used_slots=_momentum_slots,
    scalars=(),
    coefficients=_normalized_sgd_coefficients,
    clips_itself=True,
    citation="Zhang, Jin, Fang, Wang, Improved Analysis of Clipping Algorithms, NeurIPS 2020, arXiv 2010.02519",
)

MIX_CLIP = RuleSpec(
    name="mix_clip",
    family="momentum",
    hyperparameters=("momentum", "gamma", "nu", "smooth"),
    slots=(StateSlot("momentum_buffer", optional=True),),
    used_slots=_momentum_slots,
    scalars=(),
    coefficients=_mix_clip_coefficients,
    clips_itself=True,
    citation=NORMALIZED_SGD.citation,
)

ADAM = RuleSpec(
    name="adam",
    family="second_moment",
    hyperparameters=("betas", "eps", "amsgrad"),
    slots=(StateSlot("exp_avg"), StateSlot("exp_avg_sq"), StateSlot("max_exp_avg_sq", optional=True)),
    used_slots=_adam_slots,
    scalars=(ScalarSlot("step"),),
    coefficients=_adam_coefficients,
    citation="Kingma, Ba, Adam, ICLR 2015, arXiv 1412.6980; AMSGrad: Reddi et al., ICLR 2018, arXiv 1904.09237",
)

NADAM = RuleSpec(
    name="nadam",
    family="second_moment",
    hyperparameters=("betas", "eps", "momentum_decay"),
    slots=(StateSlot("exp_avg"), StateSlot("exp_avg_sq")),
    used_slots=lambda group: ("exp_avg", "exp_avg_sq"),
    scalars=(ScalarSlot("step"), ScalarSlot("mu_product", initial=1.0, wanted=FRACTION)),
    coefficients=_nadam_coefficients,
    citation="Dozat, Incorporating Nesterov Momentum into Adam, ICLR 2016 workshop",
)

RADAM = RuleSpec(
    name="radam",
    family="second_moment",
    hyperparameters=("betas", "eps"),
    slots=(StateSlot("exp_avg"), StateSlot("exp_avg_sq")),
    used_slots=lambda group: ("exp_avg", "exp_avg_sq"),
    scalars=(ScalarSlot("step"),),
    coefficients=_radam_coefficients,
    citation="Liu et al., On the Variance of the Adaptive Learning Rate and Beyond, ICLR 2020, arXiv 1908.03265",
)

RMSPROP = RuleSpec(
    name="rmsprop",
    family="root_mean_square",
    hyperparameters=("alpha", "eps", "momentum", "centered"),
    slots=(StateSlot("square_avg"), StateSlot("momentum_buffer", optional=True), StateSlot("grad_avg", optional=True)),
    used_slots=_rmsprop_slots,
    scalars=(ScalarSlot("step"),),
    coefficients=_rmsprop_coefficients,
    citation="Tieleman, Hinton, Neural Networks for Machine Learning, lecture 6.5, 2012; centered: Graves, 2013, "
    "arXiv 1308.0850",
)

ADAGRAD = RuleSpec(
    name="adagrad",
    family="root_mean_square",
    hyperparameters=("lr_decay", "eps"),
    slots=(StateSlot("sum", lambda group: float(group["initial_accumulator_value"])),),
    used_slots=lambda group: ("sum",),
    scalars=(ScalarSlot("step"),),
    coefficients=_adagrad_coefficients,
    citation="Duchi, Hazan, Singer, Adaptive Subgradient Methods for Online Learning, JMLR 2011",
)


def adagrad_norm(scope: Scope) -> RuleSpec:
    """The rule over ``scope``: its sums are state of the parameters, or, where they share one, of the param groups."""
    # Over rows, a parameter below two dimensions has its sums beside its momentum, element by element and of one type.
    by_row = scope is Scope.ROW
    extent = {Scope.TENSOR: Extent.TENSOR, Scope.ROW: Extent.ROW}.get(scope)
    sums = () if extent is None else (StateSlot("sum", _b0_squared, True, extent, has_own_type=not by_row),)
    return RuleSpec(
        name="adagrad_norm",
        family="momentum",
        hyperparameters=("momentum",),
        slots=(StateSlot("momentum_buffer", at_least_float32=by_row, optional=True), *sums),
        used_slots=lambda group: (*_momentum_slots(group), *(slot.name for slot in sums)),
        scalars=(),
        coefficients=_adagrad_norm_coefficients,
        clips_itself=True,
        by_scope=adagrad_norm,
        takes_complex=False,
        citation="Ward, Wu, Bottou, AdaGrad stepsizes, ICML 2019, arXiv 1806.01811; Wu, Xie, Du, Ward, AAAI 2022, "
        "arXiv 2109.08282",
    )


ADAGRAD_NORM = adagrad_norm(Scope.ROW)
"""With every slot that the rule can have."""

GRDA = RuleSpec(
    name="grda",
    family="soft_threshold",
    hyperparameters=("c", "mu"),
    slots=(StateSlot("accumulator", None, at_least_float32=True),),
    used_slots=lambda group: ("accumulator",),
    scalars=(ScalarSlot("step"), ScalarSlot("l1", torch.float64, wanted=NON_NEGATIVE)),
    coefficients=_grda_coefficients,
    aliases={"iter_num": "step", "l1_accumulation": "l1"},
    takes_complex=False,
    citation="Chao, Wang, Xing, Cheng, Directional Pruning of Deep Neural Networks, NeurIPS 2020, arXiv 2006.09358",
)

RULES: dict[str, RuleSpec] = {
    rule.name: rule
    for rule in (SGD, NORMALIZED_SGD, MIX_CLIP, ADAM, NADAM, RADAM, RMSPROP, ADAGRAD, ADAGRAD_NORM, GRDA)
}
"""Every rule by its name."""
