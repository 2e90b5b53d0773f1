"""What the host knows of each update rule: its hyperparameters and its state.

The names and their order are those of ``csrc/rules/<rule>.h``; a test compares the two. The maths is not here: it is in
``csrc/rules``, and, in the papers' form, a function in ``torchclip.backends.reference.rules``.
"""

from __future__ import annotations

import torch

from torchclip.rules.norms import Scope
from torchclip.rules.rule_spec import Extent, Group, RuleSpec, ScalarSlot, StateSlot
from torchclip.rules.state_numbers import FRACTION, NON_NEGATIVE


def _momentum_slots(group: Group) -> tuple[str, ...]:
    return ("momentum_buffer",) if group["momentum"] != 0 else ()


def _sgd_conflict(group: Group) -> str | None:
    dampening = group["dampening"]
    if not (group["nesterov"] and group["momentum"] != 0 and dampening != 0):
        return None  # without a momentum it is plain SGD, as torch's
    return f"Nesterov momentum requires a momentum and zero dampening; got {dampening=}: leave one of them out"


def _adam_slots(group: Group) -> tuple[str, ...]:
    return ("exp_avg", "exp_avg_sq", "max_exp_avg_sq") if group["amsgrad"] else ("exp_avg", "exp_avg_sq")


def _rmsprop_slots(group: Group) -> tuple[str, ...]:
    momentum = ("momentum_buffer",) if group["momentum"] > 0 else ()
    return ("square_avg", *momentum, *(("grad_avg",) if group["centered"] else ()))


def _b0_squared(group: Group) -> float:
    return float(group["b0"]) ** 2


SGD = RuleSpec(
    name="sgd",
    family="momentum",
    hyperparameters=("momentum", "dampening", "nesterov"),
    slots=(StateSlot("momentum_buffer", optional=True),),
    used_slots=_momentum_slots,
    scalars=(),
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
    citation="Kingma, Ba, Adam, ICLR 2015, arXiv 1412.6980; AMSGrad: Reddi et al., ICLR 2018, arXiv 1904.09237",
)

NADAM = RuleSpec(
    name="nadam",
    family="second_moment",
    hyperparameters=("betas", "eps", "momentum_decay"),
    slots=(StateSlot("exp_avg"), StateSlot("exp_avg_sq")),
    used_slots=lambda group: ("exp_avg", "exp_avg_sq"),
    scalars=(ScalarSlot("step"), ScalarSlot("mu_product", initial=1.0, wanted=FRACTION)),
    citation="Dozat, Incorporating Nesterov Momentum into Adam, ICLR 2016 workshop",
)

RADAM = RuleSpec(
    name="radam",
    family="second_moment",
    hyperparameters=("betas", "eps"),
    slots=(StateSlot("exp_avg"), StateSlot("exp_avg_sq")),
    used_slots=lambda group: ("exp_avg", "exp_avg_sq"),
    scalars=(ScalarSlot("step"),),
    citation="Liu et al., On the Variance of the Adaptive Learning Rate and Beyond, ICLR 2020, arXiv 1908.03265",
)

RMSPROP = RuleSpec(
    name="rmsprop",
    family="root_mean_square",
    hyperparameters=("alpha", "eps", "momentum", "centered"),
    slots=(StateSlot("square_avg"), StateSlot("momentum_buffer", optional=True), StateSlot("grad_avg", optional=True)),
    used_slots=_rmsprop_slots,
    scalars=(ScalarSlot("step"),),
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
    aliases={"iter_num": "step", "l1_accumulation": "l1"},
    takes_complex=False,
    citation="Chao, Wang, Xing, Cheng, Directional Pruning of Deep Neural Networks, NeurIPS 2020, arXiv 2006.09358",
)

RULES: dict[str, RuleSpec] = {
    rule.name: rule
    for rule in (SGD, NORMALIZED_SGD, MIX_CLIP, ADAM, NADAM, RADAM, RMSPROP, ADAGRAD, ADAGRAD_NORM, GRDA)
}
"""Every rule by its name."""
