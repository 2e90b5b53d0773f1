"""What the host knows of each update rule: its hyperparameters, its state and its coefficients.

The names and their order are those of ``csrc/rules/<rule>.h``; a contract test compares the two, and the values of
the coefficients over a grid of hyperparameters and steps. The maths of an element is not here: it is a functor in
``csrc/rules``, and, in the papers' form, a function in ``torchclip.reference.rules``.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Group = Mapping[str, Any]
Coefficients = dict[str, float]


class Initial(enum.Enum):
    """How a state tensor starts."""

    ZEROS = "zeros"
    PARAMETER = "a copy of the parameter"


@dataclass(frozen=True)
class StateSlot:
    """One state tensor with the shape and strides of its parameter.

    Args:
        name: the key in ``optimizer.state[parameter]``.
        initial: how it starts.
        at_least_float32: True where the state must not be rounded to a half-precision parameter's type.
    """

    name: str
    initial: Initial = Initial.ZEROS
    at_least_float32: bool = False

    def create(self, parameter: Tensor) -> Tensor:
        """The tensor that this slot holds before the first step."""
        dtype = torch.promote_types(parameter.dtype, torch.float32) if self.at_least_float32 else parameter.dtype
        if self.initial is Initial.PARAMETER:
            return parameter.detach().to(dtype, copy=True, memory_format=torch.preserve_format)
        return torch.zeros_like(parameter, dtype=dtype, memory_format=torch.preserve_format, requires_grad=False)


@dataclass(frozen=True)
class ScalarSlot:
    """One number of state per parameter, kept as a 0-dim CPU tensor. It starts at 0."""

    name: str
    dtype: torch.dtype = torch.float32

    def create(self) -> Tensor:
        """The tensor that this slot holds before the first step."""
        return torch.zeros((), dtype=self.dtype)


@dataclass(frozen=True)
class RuleSpec:
    """An update rule as the host sees it.

    Args:
        name: the rule's name in ``csrc/rules/registry.h`` and in ``torchclip.reference.rules``.
        hyperparameters: keys of a param group, in the order of the C++ struct; ``betas`` stands for two numbers there.
        slots: every state tensor the rule can have, in the order of the C++ functor.
        used_slots: the names of the slots that a param group needs.
        scalars: the numbers of state, in the order of the C++ functor; the first counts steps.
        coefficients: ``(group, step, first) -> {name: value}``: what the kernel multiplies with in the step numbered
            ``step`` (1, 2, …); ``first`` says that the state was made in this very step. Coefficients that depend on a
            measured norm are given for a norm of 0.
        clips_itself: True when the rule measures its own direction and sets its step size by that norm.
        citation: where the rule comes from.
    """

    name: str
    hyperparameters: tuple[str, ...]
    slots: tuple[StateSlot, ...]
    used_slots: Callable[[Group], tuple[str, ...]]
    scalars: tuple[ScalarSlot, ...]
    coefficients: Callable[[Group, float, bool], Coefficients]
    citation: str
    clips_itself: bool = False

    def missing_state(self, state: Mapping[str, Any], group: Group) -> list[str]:
        """The names of the state entries that a parameter of ``group`` needs and ``state`` lacks."""
        wanted = (*self.used_slots(group), *(scalar.name for scalar in self.scalars))
        return [name for name in wanted if state.get(name) is None]

    def create_state(self, name: str, parameter: Tensor) -> Tensor:
        """The state entry called ``name`` as it is before the first step of ``parameter``."""
        for slot in self.slots:
            if slot.name == name:
                return slot.create(parameter)
        for scalar in self.scalars:
            if scalar.name == name:
                return scalar.create()
        raise KeyError(f"{self.name} has no state called {name!r}")


def _momentum_slots(group: Group) -> tuple[str, ...]:
    return ("momentum_buffer",) if group["momentum"] != 0 else ()


def _sgd_coefficients(group: Group, step: float, first: bool) -> Coefficients:
    lr, momentum = float(group["lr"]), group["momentum"]
    if momentum == 0:
        return {"momentum": 0.0, "gradient_weight": 1.0, "momentum_step": 0.0, "gradient_step": lr}
    return {
        "momentum": 0.0 if first else momentum,
        "gradient_weight": 1.0 if first else 1.0 - group["dampening"],
        "momentum_step": lr * momentum if group["nesterov"] else lr,
        "gradient_step": lr if group["nesterov"] else 0.0,
    }


def _averaged_momentum_coefficients(group: Group, momentum_step: float, gradient_step: float) -> Coefficients:
    momentum = group["momentum"]
    if momentum == 0:  # m is g, and no buffer is kept
        return {
            "momentum": 0.0,
            "gradient_weight": 1.0,
            "momentum_step": 0.0,
            "gradient_step": momentum_step + gradient_step,
        }
    return {
        "momentum": momentum,
        "gradient_weight": 1.0 - momentum,
        "momentum_step": momentum_step,
        "gradient_step": gradient_step,
    }


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


def _grda_coefficients(group: Group, step: float, first: bool) -> Coefficients:
    lr, mu = float(group["lr"]), group["mu"]
    growth = group["c"] * lr ** (mu + 0.5) * (step**mu - (step - 1.0) ** mu)
    return {"lr": lr, "threshold": growth}


SGD = RuleSpec(
    name="sgd",
    hyperparameters=("momentum", "dampening", "nesterov"),
    slots=(StateSlot("momentum_buffer"),),
    used_slots=_momentum_slots,
    scalars=(),
    coefficients=_sgd_coefficients,
    citation="Sutskever et al., On the importance of initialization and momentum in deep learning, ICML 2013",
)

NORMALIZED_SGD = RuleSpec(
    name="normalized_sgd",
    hyperparameters=("momentum", "eps"),
    slots=(StateSlot("momentum_buffer"),),
    used_slots=_momentum_slots,
    scalars=(),
    coefficients=_normalized_sgd_coefficients,
    clips_itself=True,
    citation="Zhang, Jin, Fang, Wang, Improved Analysis of Clipping Algorithms, NeurIPS 2020, arXiv 2010.02519",
)

MIX_CLIP = RuleSpec(
    name="mix_clip",
    hyperparameters=("momentum", "gamma", "nu", "smooth"),
    slots=(StateSlot("momentum_buffer"),),
    used_slots=_momentum_slots,
    scalars=(),
    coefficients=_mix_clip_coefficients,
    clips_itself=True,
    citation=NORMALIZED_SGD.citation,
)

ADAM = RuleSpec(
    name="adam",
    hyperparameters=("betas", "eps", "amsgrad"),
    slots=(StateSlot("exp_avg"), StateSlot("exp_avg_sq"), StateSlot("max_exp_avg_sq")),
    used_slots=_adam_slots,
    scalars=(ScalarSlot("step"),),
    coefficients=_adam_coefficients,
    citation="Kingma, Ba, Adam, ICLR 2015, arXiv 1412.6980; AMSGrad: Reddi et al., ICLR 2018, arXiv 1904.09237",
)

GRDA = RuleSpec(
    name="grda",
    hyperparameters=("c", "mu"),
    slots=(StateSlot("accumulator", Initial.PARAMETER, at_least_float32=True),),
    used_slots=lambda group: ("accumulator",),
    scalars=(ScalarSlot("step"), ScalarSlot("l1", torch.float64)),
    coefficients=_grda_coefficients,
    citation="Chao, Wang, Xing, Cheng, Directional Pruning of Deep Neural Networks, NeurIPS 2020, arXiv 2006.09358",
)

RULES: dict[str, RuleSpec] = {rule.name: rule for rule in (SGD, NORMALIZED_SGD, MIX_CLIP, ADAM, GRDA)}
"""Every rule by its name."""
