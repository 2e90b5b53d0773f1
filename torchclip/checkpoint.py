"""What a checkpoint keeps that torch's ``load_state_dict`` would lose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from torchclip.rule_spec import RuleSpec


def with_our_names(spec: RuleSpec, state_dict: dict[str, Any]) -> dict[str, Any]:
    """The state dict with state under the names that it has here, where it comes from the rule's authors."""
    states = state_dict.get("state", {})
    if not any(name in spec.aliases for state in states.values() for name in state):
        return state_dict
    renamed = {
        key: {spec.aliases.get(name, name): value for name, value in state.items()} for key, state in states.items()
    }
    return {**state_dict, "state": renamed}


def restore_precision(
    spec: RuleSpec,
    param_groups: Sequence[Mapping[str, Any]],
    state: Mapping[Tensor, dict[str, Any]],
    saved: Mapping[str, Any],
) -> None:
    """Takes again from ``saved`` what torch has cast to the parameter's type on loading.

    That is float32 state beside half-precision parameters, and the numbers of state. The state of a complex parameter,
    which torch leaves in the type of the checkpoint, is cast to the parameter's.

    Args:
        spec: the rule whose state it is.
        param_groups: the optimizer's groups, after loading.
        state: the optimizer's state, after loading; its entries are replaced.
        saved: the state dict that was loaded.
    """
    saved_ids = [saved_id for group in saved["param_groups"] for saved_id in group["params"]]
    parameters = [parameter for group in param_groups for parameter in group["params"]]
    for saved_id, parameter in zip(saved_ids, parameters, strict=True):
        source = saved["state"].get(saved_id, {})
        for scalar in spec.scalars:
            if source.get(scalar.name) is not None:
                number = torch.as_tensor(source[scalar.name], device="cpu").detach()
                dtype = torch.promote_types(scalar.dtype, number.dtype)
                state[parameter][scalar.name] = number.to(dtype, copy=True).reshape(())
        for slot in spec.slots:
            value = source.get(slot.name)
            if not isinstance(value, Tensor) or value.is_complex() != parameter.is_complex():
                continue
            if value.dtype is torch.float32 or value.is_complex() or slot.at_least_float32:
                dtype = torch.promote_types(parameter.dtype, torch.float32)
                state[parameter][slot.name] = value.detach().to(parameter.device, dtype, copy=True)
