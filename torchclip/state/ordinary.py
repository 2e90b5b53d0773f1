"""Parameters that no check has anything against, told at one look: a step on the reference path begins with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from torchclip.rules.rule_spec import Extent, RuleSpec
from torchclip.rules.state_numbers import DTYPES
from torchclip.state.sharded import PLAIN_TENSORS


def are_ordinary(spec: RuleSpec, param_groups: Sequence[Mapping[str, Any]], state: Mapping[Tensor, Any]) -> bool:
    """Whether :func:`torchclip.state.parameter_state.check_all` would pass every parameter that has a gradient.

    True says so; False says nothing, and the checks are to be made. Ordinary are dense float32 and float64 parameters
    in the order of their dimensions, whose gradient and state, all of it there, are of the same kind.

    Args:
        spec: the rule.
        param_groups: as in ``optimizer.param_groups``.
        state: as in ``optimizer.state``.
    """
    for group in param_groups:
        for parameter in group["params"]:
            gradient = parameter.grad
            if gradient is None:
                continue
            held = state.get(parameter)
            if not isinstance(held, dict) or parameter.dtype not in DTYPES:
                return False
            alike = [parameter, gradient]
            for slot in spec.slots:
                value = held.get(slot.name)
                if value is not None and slot.extent is Extent.ELEMENT:
                    alike.append(value)
                elif value is not None or not slot.optional:
                    return False
            for tensor in alike:
                is_alike = type(tensor) in PLAIN_TENSORS and (
                    tensor.dtype is parameter.dtype
                    and tensor.shape == parameter.shape
                    and tensor.device == parameter.device
                    and tensor.layout is torch.strided
                    and tensor.is_contiguous()
                    and not tensor.is_neg()
                )
                if not is_alike:
                    return False
            for scalar in spec.scalars:
                number = held.get(scalar.name)
                if not isinstance(number, Tensor) or number.dtype not in DTYPES:
                    return False
                if number.layout is not torch.strided or number.numel() != 1 or number.is_meta or number.is_neg():
                    return False
            for value in (parameter, *held.values()):
                if isinstance(value, Tensor) and value.is_inference():
                    return False
    return True
