"""Hyperparameters, policies and scopes out of range: the error's type, and what its message names.

A message says what is wrong, in torch's own words where torch has some, and then what to do.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

import torchclip
from builders import (
    ADAMS,
    CLIPPING,
    GAMMAS,
    LOSS,
    REQUIRED,
    ROOT_MEAN_SQUARES,
    SGDS,
    each_class,
    fresh,
)
from memory_guard import same_bits

NAN = math.nan

BREGMAN = (torchclip.LinBreg, torchclip.AdaBreg)
BETAS = (*ADAMS, torchclip.AdaBreg)
MOMENTA = (*SGDS, torchclip.AdaLoss)
AVERAGES = (*CLIPPING, torchclip.AdaGradNorm)


@dataclass(frozen=True)
class BadValue:
    """A hyperparameter out of its range, for every class that has it."""

    classes: tuple[type[torch.optim.Optimizer], ...]
    options: Mapping[str, Any]
    message: str

    @property
    def name(self) -> str:
        """``lr=-1``."""
        return ",".join(f"{key}={value}" for key, value in self.options.items())


BAD_VALUES = (
    *(BadValue(tuple(REQUIRED), {"lr": v}, f"Invalid learning rate: {v}") for v in (-1, -0.1, NAN)),
    *(BadValue((*MOMENTA, torchclip.RMSprop), {"momentum": v}, f"Invalid momentum value: {v}") for v in (-1, NAN)),
    # Averages: 1 would forget every gradient.
    *(
        BadValue((*AVERAGES, torchclip.LinBreg), {"momentum": v}, f"Invalid momentum value: {v}")
        for v in (-0.1, 1.0, 1.5, NAN)
    ),
    *(
        BadValue(
            (*MOMENTA, *ADAMS, *ROOT_MEAN_SQUARES, *AVERAGES),
            {"weight_decay": v},
            f"Invalid weight_decay value: {v}",
        )
        for v in (-1, -0.1, NAN)
    ),
    *(
        BadValue(
            (*ADAMS, *ROOT_MEAN_SQUARES, torchclip.NormalizedSGD, torchclip.AdaBreg),
            {"eps": v},
            f"Invalid epsilon value: {v}",
        )
        for v in (-1, NAN)
    ),
    *(BadValue((torchclip.NAdam,), {"momentum_decay": v}, f"Invalid momentum_decay value: {v}") for v in (-1, NAN)),
    *(BadValue((torchclip.RMSprop,), {"alpha": v}, f"Invalid alpha value: {v}") for v in (-1, NAN)),
    *(
        BadValue((torchclip.Adagrad,), {key: v}, f"Invalid {key} value: {v}")
        for key in ("lr_decay", "initial_accumulator_value")
        for v in (-1, NAN)
    ),
    *(BadValue(BETAS, {"betas": (v, 0.9)}, f"Invalid beta parameter at index 0: {v}") for v in (-0.1, 1.0, 1.5, NAN)),
    *(BadValue(BETAS, {"betas": (0.9, v)}, f"Invalid beta parameter at index 1: {v}") for v in (-0.1, 1.0, 1.5, NAN)),
    *(BadValue(GAMMAS, {"gamma": v}, f"Invalid gamma value: {v}") for v in (-1, 0, 0.0, NAN)),
    *(BadValue((torchclip.MixClip,), {"nu": v}, f"Invalid nu value: {v}") for v in (-0.1, 1.1, NAN)),
    *(BadValue((torchclip.AdaGradNorm,), {"b0": v}, f"Invalid b0 value: {v}") for v in (-1, 0, 0.0, NAN, math.inf)),
    *(BadValue((torchclip.GRDA,), {"mu": v}, f"Invalid mu value: {v}") for v in (-0.5, 0, 0.0, NAN)),
    *(BadValue(BREGMAN, {"lam": v}, f"Invalid lam value: {v}") for v in (-0.5, NAN)),
    *(BadValue(BREGMAN, {"delta": v}, f"Invalid delta value: {v}") for v in (-0.5, 0, 0.0, NAN)),
    *(BadValue((torchclip.GRDA,), {"c": v}, f"Invalid c value: {v}") for v in (-0.5, NAN)),
    *(
        BadValue(
            MOMENTA,
            {"nesterov": True, **other},
            "Nesterov momentum requires a momentum and zero dampening",
        )
        for other in ({"momentum": 0}, {"momentum": 0.9, "dampening": 0.1})
    ),
)

BAD_VALUE_PARAMS = [
    pytest.param(cls, bad, id=f"{cls.__name__}-{bad.name}") for bad in BAD_VALUES for cls in bad.classes
]


@pytest.mark.parametrize("cls, bad", BAD_VALUE_PARAMS)
def test_hyperparameter_out_of_range(cls: type[torch.optim.Optimizer], bad: BadValue) -> None:
    params = fresh()
    before = [p.detach().clone() for p in params]
    with pytest.raises(ValueError, match="^" + re.escape(bad.message)):
        cls(params, **{**REQUIRED[cls], **bad.options})
    assert all(same_bits(p, b) for p, b in zip(params, before))


# Not Nesterov's: it is about two values, and without a momentum it is plain SGD.
@pytest.mark.parametrize("cls, bad", [p for p in BAD_VALUE_PARAMS if "nesterov" not in p.values[1].options])
def test_hyperparameter_out_of_range_in_a_param_group(cls: type[torch.optim.Optimizer], bad: BadValue) -> None:
    """torch does not look at what a group brings along."""
    first, second, third = fresh()
    with pytest.raises(ValueError, match="^" + re.escape(bad.message)):
        cls([{"params": [first]}, {"params": [second], **bad.options}], **REQUIRED[cls])
    optimizer = cls([first, second], **REQUIRED[cls])
    with pytest.raises(ValueError, match="^" + re.escape(bad.message)):
        optimizer.add_param_group({"params": [third], **bad.options})
    assert len(optimizer.param_groups) == 1
    optimizer.step(loss=LOSS)


@each_class
def test_hyperparameter_out_of_range_written_between_steps(cls: type[torch.optim.Optimizer], backend: str) -> None:
    """What the constructor refuses, the next step does, and the one after it goes on."""
    params, twins = fresh(), fresh()
    optimizer, twin = (cls(each, **REQUIRED[cls], backend=backend) for each in (params, twins))
    for step in range(2):
        for p, q in zip(params, twins):
            q.data, p.grad, q.grad = p.data.clone() if step == 0 else q.data, torch.ones_like(p), torch.ones_like(p)
        optimizer.step(loss=LOSS)
        twin.step(loss=LOSS)
    before = [p.detach().clone() for p in params]
    group = optimizer.param_groups[0]
    for bad in [bad for bad in BAD_VALUES if cls in bad.classes and "nesterov" not in bad.options]:
        kept = dict(group)
        group.update(bad.options)
        with pytest.raises(ValueError, match="^" + re.escape(bad.message)):
            optimizer.step(loss=LOSS)
        group.update(kept)
    assert all(map(same_bits, params, before))
    optimizer.step(loss=LOSS)
    twin.step(loss=LOSS)
    assert all(map(same_bits, params, twins))


# A hyperparameter of the wrong type: a string from a parsed file, and a number where there must be two.
@pytest.mark.parametrize(
    "cls, options",
    [
        *((cls, {"lr": "0.1"}) for cls in REQUIRED),
        (torchclip.Adam, {"betas": 0.9}),
        (torchclip.Adam, {"betas": (0.9,)}),
        (torchclip.SGD, {"momentum": "0.9"}),
        (torchclip.MixClip, {"gamma": "1"}),
        (torchclip.GRDA, {"mu": None}),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else str(value),
)
def test_hyperparameter_of_the_wrong_type(cls: type[torch.optim.Optimizer], options: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError), match=next(iter(options))):
        cls(fresh(), **{**REQUIRED[cls], **options})


@pytest.mark.parametrize("lr", [torch.tensor([0.1, 0.2]), torch.zeros(0)], ids=["two", "none"])
@each_class
def test_learning_rate_tensor_must_have_one_element(cls: type[torch.optim.Optimizer], lr: Tensor) -> None:
    with pytest.raises(ValueError, match="^Tensor lr must be 1-element"):
        cls(fresh(), **{**REQUIRED[cls], "lr": lr})


@pytest.mark.parametrize("name", ["scope"])
@pytest.mark.parametrize("cls", CLIPPING, ids=lambda cls: cls.__name__)
def test_unknown_scope(cls: type[torch.optim.Optimizer], name: str) -> None:
    with pytest.raises(ValueError, match=r"^Invalid scope: 'layer'.*'optimizer', 'group', 'tensor'"):
        cls(fresh(), **{**REQUIRED[cls], name: "layer"})


@dataclass(frozen=True)
class BadPolicy:
    """A clip policy that must refuse its arguments."""

    build: Callable[[], object]
    exception: type[Exception]
    message: str


BAD_POLICIES = {
    "max_norm_negative": BadPolicy(lambda: torchclip.ClipByGlobalNorm(-1.0), ValueError, "Invalid max_norm: -1.0"),
    "max_norm_nan": BadPolicy(lambda: torchclip.ClipByGlobalNorm(NAN), ValueError, "Invalid max_norm: nan"),
    "tensor_max_norm_negative": BadPolicy(lambda: torchclip.ClipByTensorNorm(-1), ValueError, "Invalid max_norm: -1"),
    "tensor_max_norm_nan": BadPolicy(lambda: torchclip.ClipByTensorNorm(NAN), ValueError, "Invalid max_norm: nan"),
    "smooth_max_norm_zero": BadPolicy(
        lambda: torchclip.ClipByGlobalNorm(0.0, smooth=True), ValueError, "Invalid max_norm: 0.0"
    ),
    "max_value_negative": BadPolicy(lambda: torchclip.ClipByValue(-0.5), ValueError, "Invalid max_value: -0.5"),
    "max_value_nan": BadPolicy(lambda: torchclip.ClipByValue(NAN), ValueError, "Invalid max_value: nan"),
    "max_norm_string": BadPolicy(lambda: torchclip.ClipByGlobalNorm("1"), TypeError, "max_norm='1' must be a number"),
    "nonfinite_unknown": BadPolicy(
        lambda: torchclip.ClipByGlobalNorm(1.0, nonfinite="ignore"), ValueError, "Invalid nonfinite: 'ignore'"
    ),
    "scope_unknown": BadPolicy(
        lambda: torchclip.ClipByGlobalNorm(1.0, scope="layer"), ValueError, "Invalid scope: 'layer'"
    ),
    "scope_of_the_other_policy": BadPolicy(
        lambda: torchclip.ClipByGlobalNorm(1.0, scope="tensor"), ValueError, "Invalid scope: 'tensor'"
    ),
}


@pytest.mark.parametrize("bad", BAD_POLICIES.values(), ids=BAD_POLICIES)
def test_policy_out_of_range(bad: BadPolicy) -> None:
    with pytest.raises(bad.exception, match="^" + re.escape(bad.message)):
        bad.build()


@each_class
def test_clip_argument(cls: type[torch.optim.Optimizer]) -> None:
    for clip, exception, message in (
        (-1.0, ValueError, "Invalid max_norm: -1.0"),
        (NAN, ValueError, "Invalid max_norm: nan"),
        ("1.0", TypeError, "clip='1.0' must be None, a number"),
        (True, TypeError, "clip=True must be None, a number"),
        (torchclip.ClipByValue, TypeError, "clip=.*ClipByValue.* must be None, a number"),
    ):
        with pytest.raises(exception, match="^" + message):
            cls(fresh(), **REQUIRED[cls], clip=clip)


@pytest.mark.parametrize("key", ["weight_decay", "maximize"])
def test_a_group_cannot_ask_for_what_the_rule_has_not(key: str) -> None:
    with pytest.raises(ValueError, match=f"GRDA has no {key}.*leave it out"):
        torchclip.GRDA([{"params": fresh(), key: 0.1}])
    torchclip.GRDA([{"params": fresh(), key: 0.0}])
