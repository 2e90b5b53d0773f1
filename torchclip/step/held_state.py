"""The state of a parameter under a precision policy, made before a compiled step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from torchclip.backends.reference import codecs
from torchclip.backends.reference.operands import parameter_value
from torchclip.policies.precision import Precision
from torchclip.policies.precision.codec import Kind, Types, absmax_of
from torchclip.rules.rule_spec import RuleSpec
from torchclip.state.precision_state import created_beside, created_slot
from torchclip.state.sharded import is_sharded, local_of

Maker = Callable[[Tensor, Mapping[str, Any], dict[str, Any], "torch.device | str"], dict[str, Tensor]]
"""``(parameter, group, its state, the device of numbers) -> what the state lacks``."""


def maker(spec: RuleSpec, precision: Precision) -> Maker:
    """What makes the state that a parameter lacks."""

    @torch.no_grad()
    def make(
        parameter: Tensor, group: Mapping[str, Any], held: dict[str, Any], numbers_on: torch.device | str
    ) -> dict[str, Tensor]:
        types = precision.types(spec, parameter)
        _follow_parameter(types, parameter, held)
        value = parameter_value(local_of(parameter), types, held, torch.float32)
        made = {
            name: created_slot(spec, name, types, parameter, group, value)
            if name in types.slots
            else spec.create_state(name, parameter, group, numbers_on)
            for name in spec.missing_state(held, group)
        }
        return made | created_beside(spec, types, parameter, group, held)

    return make


def _follow_parameter(types: Types, parameter: Tensor, held: dict[str, Any]) -> None:
    """Puts codes that lie in another order than the parameter, those of a checkpoint say, in the parameter's, which the
    passes walk: into blocks of other elements, so that they are rounded once more."""
    for name, codec in types.slots.items():
        codes = held.get(name)
        if codec.kind is not Kind.BLOCKS or not isinstance(codes, Tensor) or is_sharded(codes):
            continue
        like = torch.empty_like(parameter, dtype=torch.uint8, requires_grad=False)
        if codes.stride() == like.stride():
            continue
        value = codecs.from_blocks(codes, held[absmax_of(name)], is_signed=codec.is_signed)
        moved, absmax = codecs.to_blocks(value.view(codes.shape), like, is_signed=codec.is_signed)
        held[name], held[absmax_of(name)] = like.copy_(moved), absmax
