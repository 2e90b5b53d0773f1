"""The state of a parameter under a precision policy, made before a compiled step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from torchclip.backends.reference.operands import codes_in_order, parameter_value
from torchclip.policies.precision import Precision
from torchclip.rules.rule_spec import RuleSpec
from torchclip.state.precision_state import created_beside, created_slot
from torchclip.state.sharded import local_of

Maker = Callable[[Tensor, Mapping[str, Any], Mapping[str, Any], "torch.device | str"], dict[str, Tensor]]
"""``(parameter, group, its state, the device of numbers) -> what the state lacks, and what takes the place of codes in
another order``."""


def maker(spec: RuleSpec, precision: Precision) -> Maker:
    """What makes the state that a parameter lacks, and puts codes in the parameter's order."""

    @torch.no_grad()
    def make(
        parameter: Tensor, group: Mapping[str, Any], held: Mapping[str, Any], numbers_on: torch.device | str
    ) -> dict[str, Tensor]:
        types = precision.types(spec, parameter)
        moved = codes_in_order(types, parameter, held)
        value = parameter_value(local_of(parameter), types, held, torch.float32)
        made = {
            name: created_slot(spec, name, types, parameter, group, value)
            if name in types.slots
            else spec.create_state(name, parameter, group, numbers_on)
            for name in spec.missing_state(held, group)
        }
        return made | created_beside(spec, types, parameter, group, held) | moved

    return make
