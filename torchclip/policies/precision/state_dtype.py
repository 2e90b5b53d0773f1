"""State in a narrower type than the parameter."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

import torch
from torch import Tensor

from torchclip.policies.numbers import set_flag
from torchclip.policies.precision.codec import Codec, Kind
from torchclip.policies.precision.policy import StatePolicy, may_round
from torchclip.rules.rule_spec import RuleSpec, StateSlot

StateType = Literal["float32", "bfloat16"] | torch.dtype

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class StateDtype(StatePolicy):
    r"""Holds the state in a type of its own, narrower than the parameter or wider.

    .. math::
        s \leftarrow \operatorname{round}(\operatorname{rule}(s, g)), \qquad
        |\operatorname{round}(s) - s| \le 2^{-8}\, |s| \text{ to nearest, and } < 2^{-7}\, |s|,\;
        \mathrm{E}[\operatorname{round}(s)] = s \text{ if stochastic}

    Rounded to nearest, an average stands still while a step changes it by less than half a unit in its last place: with
    :math:`\beta_2 = 0.999` a second moment :math:`v` in bfloat16 does under gradients that shrink, and under ones that
    grow until :math:`g^2` is 3 to 5 times :math:`v`. ``stochastic=True`` has no such threshold.

    Per parameter, float32 with AdamW and a float32 gradient: 8 bytes held (parameter 4, moments 2 each) for 12, and 5
    words (of 4 bytes) moved for 7; SGD with momentum: 6 bytes for 8, 4 words for 5.

    Args:
        dtype: ``"float32"`` or ``"bfloat16"``, or torch's; for every slot that is not named. None: a slot that is not
            named has the parameter's type, or float32 within a policy of the parameters.
        exp_avg: for the first moment.
        exp_avg_sq: for the second moment.
        max_exp_avg_sq: for AMSGrad's largest second moment.
        momentum_buffer: for the momentum.
        square_avg: for RMSprop's mean square.
        grad_avg: for the mean of centered RMSprop.
        sum: for Adagrad's sum of squares.
        stochastic: bfloat16 is rounded to stochastically, with bits from the optimizer's ``seed``.

    A slot that must not be rounded, gRDA's accumulator and Lookahead's slow weights, stays float32.

    Raises:
        TypeError, ValueError: for a type that is neither, and where nothing is given a type. An optimizer raises for a
            slot that its rule never has; one that only other hyperparameters need may come later, as SGD's
            ``momentum_buffer`` with a param group that has momentum.

    Example:
        >>> import torch, torchclip
        >>> weight = torch.nn.Parameter(torch.ones(3))
        >>> optimizer = torchclip.AdamW([weight], precision=torchclip.StateDtype("bfloat16", stochastic=True), seed=1)
        >>> weight.grad = torch.ones(3)
        >>> optimizer.step()
        >>> optimizer.state[weight]["exp_avg"].dtype
        torch.bfloat16

    Source: Zamirai, Zhang, Aberger, De Sa, Revisiting BFloat16 Training, 2020, arXiv 2010.06192, section 3.
    """

    dtype: StateType | None = None
    exp_avg: StateType | None = None
    exp_avg_sq: StateType | None = None
    max_exp_avg_sq: StateType | None = None
    momentum_buffer: StateType | None = None
    square_avg: StateType | None = None
    grad_avg: StateType | None = None
    sum: StateType | None = None
    stochastic: bool = False

    def __post_init__(self) -> None:
        set_flag(self, "stochastic")
        for name in _TYPED:
            object.__setattr__(self, name, _checked(name, getattr(self, name)))
        if all(getattr(self, name) is None for name in _TYPED):
            raise ValueError('StateDtype() gives nothing a type: write StateDtype("bfloat16"), or name a slot')
        if self.stochastic and all(getattr(self, name) in (None, "float32") for name in _TYPED):
            raise ValueError("stochastic=True rounds to bfloat16, and no slot is bfloat16: leave it out, or name one")

    def __repr__(self) -> str:
        given = [f"{name}={getattr(self, name)!r}" for name in _TYPED if getattr(self, name) is not None]
        return f"StateDtype({', '.join([*given, *(['stochastic=True'] if self.stochastic else [])])})"

    @property
    def draws(self) -> bool:
        return self.stochastic

    @property
    def has_blocks(self) -> bool:
        return False

    def reason_against(self, spec: RuleSpec) -> str | None:
        reason = super().reason_against(spec)
        if reason is not None:
            return reason
        has = [slot.name for slot in spec.slots if may_round(slot)]
        others = [name for name in _TYPED[1:] if getattr(self, name) is not None and name not in has]
        if not others:
            return None
        return (
            f"{self!r} names {' and '.join(others)}, and what {spec.name} may keep for each element is "
            f"{' and '.join(has)}"
        )

    def slot_codec(self, slot: StateSlot, parameter: Tensor, otherwise: Codec) -> Codec:
        given = getattr(self, slot.name, None) or self.dtype
        if given is None:
            return otherwise
        dtype = _DTYPES[str(given)]
        rounds = self.stochastic and dtype is torch.bfloat16
        return Codec(Kind.STOCHASTIC if rounds else Kind.NEAREST, dtype)


_TYPED = tuple(field.name for field in fields(StateDtype) if field.name != "stochastic")


def _checked(name: str, given: object) -> str | None:
    """The name of a type."""
    if given is None:
        return None
    word = str(given).removeprefix("torch.") if isinstance(given, (str, torch.dtype)) else ""
    if word not in _DTYPES:
        raise (ValueError if word else TypeError)(
            f"Invalid {name}: {given!r}; state is held in 'float32' or 'bfloat16': float16 loses squares of gradients "
            "below 2.4e-4, float64 has no use, and 8 bits are Blockwise8bit()"
        )
    return word
