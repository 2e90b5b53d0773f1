"""Precision policies as a plan is told of them: in the numbering of ``csrc/codecs.h`` and
``csrc/reader/holding.h``."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import NamedTuple

import torch

from torchclip.policies.modifiers import BESIDE_RULE
from torchclip.policies.precision import Blockwise8bit, Precision
from torchclip.policies.precision.codec import MASTER, REMAINDER, Codec, Kind, absmax_of
from torchclip.policies.precision.policy import ParameterPolicy
from torchclip.rules.rule_spec import RuleSpec

FORMS = (Kind.NEAREST, Kind.STOCHASTIC, Kind.SPLIT, Kind.MASTER)
UNRULED, AS_PARAMETER, FLOAT32, BFLOAT16, STOCHASTIC_BFLOAT16, BLOCKS, UNSIGNED_BLOCKS = range(7)
NO_ROWS = -1


class Held(NamedTuple):
    """The arguments of the plan's ``hold``.

    Args:
        parameter: the form of parameters in less than float32.
        slots: [slots of the rule], that of each.
        min_elements: parameters of fewer stay wide.
        embedding_rows: matrices of as many rows and more stay wide; negative where none do.
        beside: the key of what is kept beside a parameter; of no meaning where nothing is.
        absmax: [slots of the rule], the key of each one's absmax.
    """

    parameter: int
    slots: list[int]
    min_elements: int
    embedding_rows: int
    beside: str
    absmax: list[str]


def held(precision: Precision, spec: RuleSpec) -> Held:
    """What a plan is told of a policy.

    Args:
        precision: the policy.
        spec: the rule.
    """
    kind = precision.kind if isinstance(precision, ParameterPolicy) else Kind.NEAREST
    blocks = blocks_of(precision)
    min_elements = 0 if blocks is None else blocks.min_elements
    rows = None if blocks is None else blocks.embedding_rows
    # Of the one type that a policy gives no slot by itself.
    parameter = torch.empty(1, dtype=torch.float16, device="meta")
    types = _narrowing(precision).types(spec, parameter)
    names = [slot.name for slot in spec.slots if slot.name not in BESIDE_RULE]
    return Held(
        FORMS.index(kind),
        [_form(types.slots.get(name)) for name in names],
        min(min_elements, sys.maxsize),
        NO_ROWS if rows is None else min(rows, sys.maxsize),
        MASTER if kind is Kind.MASTER else REMAINDER,
        [absmax_of(name) for name in names],
    )


def blocks_of(precision: Precision) -> Blockwise8bit | None:
    """The policy of the state, where that is in blocks."""
    state = precision.state if isinstance(precision, ParameterPolicy) else precision
    return state if isinstance(state, Blockwise8bit) else None


def _narrowing(precision: Precision) -> Precision:
    """The policy without what keeps parameters wide."""
    if blocks_of(precision) is None:
        return precision
    everywhere = Blockwise8bit(min_elements=0, embedding_rows=None)
    return replace(precision, state=everywhere) if isinstance(precision, ParameterPolicy) else everywhere


def _form(codec: Codec | None) -> int:
    if codec is None:
        return UNRULED
    if codec.kind is Kind.BLOCKS:
        return BLOCKS if codec.is_signed else UNSIGNED_BLOCKS
    if codec.dtype is torch.float16:
        return AS_PARAMETER
    if codec.dtype is torch.float32:
        return FLOAT32
    return STOCHASTIC_BFLOAT16 if codec.kind is Kind.STOCHASTIC else BFLOAT16
