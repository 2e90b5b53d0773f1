"""Precision policies: in which types a step holds the parameters and their state, a file for each."""

from __future__ import annotations

from torchclip.policies.precision.blockwise8bit import Blockwise8bit
from torchclip.policies.precision.master_weights import MasterWeights
from torchclip.policies.precision.split_master import SplitMaster
from torchclip.policies.precision.state_dtype import StateDtype
from torchclip.policies.precision.stochastic_rounding import StochasticRounding

__all__ = [
    "PRECISIONS",
    "Blockwise8bit",
    "MasterWeights",
    "Precision",
    "SplitMaster",
    "StateDtype",
    "StochasticRounding",
    "checked_precision",
]

Precision = StateDtype | Blockwise8bit | SplitMaster | MasterWeights | StochasticRounding
PRECISIONS = (StateDtype, Blockwise8bit, SplitMaster, MasterWeights, StochasticRounding)
"""Every precision policy."""


def checked_precision(precision: Precision | None) -> Precision | None:
    """What an optimizer's ``precision=`` argument stands for.

    Raises:
        TypeError: for something that is no precision policy.
    """
    if precision is None or isinstance(precision, PRECISIONS):
        return precision
    names = ", ".join(kind.__name__ for kind in PRECISIONS)
    hint = f"; write {precision.__name__}(), an instance" if isinstance(precision, type) else ""
    if isinstance(precision, (tuple, list)):
        hint = "; a policy of the state goes into one of the parameters: SplitMaster(state=StateDtype('bfloat16'))"
    raise TypeError(f"precision={precision!r} must be one of {names}, or None{hint}")
