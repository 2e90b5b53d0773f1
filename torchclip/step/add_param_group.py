"""What a param group must be before an optimizer takes it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from torchclip.backends import flags
from torchclip.policies.group_clip import check_keys
from torchclip.policies.precision import Precision
from torchclip.state.group_values import GroupKeys
from torchclip.state.precision_state import check_precision
from torchclip.state.steppable import can_step
from torchclip.state.tensor_checks import check_new_parameters


def check_params(params: Any, optimizer: str) -> None:
    """Raises TypeError for a module, or a method of one, in the place of its parameters.

    Args:
        params: what stands for parameters.
        optimizer: the name of the class, for errors.
    """
    if isinstance(params, torch.nn.Module):
        raise TypeError(
            f"{optimizer} takes parameters, and got a module, {type(params).__name__}: give it module.parameters()"
        )
    if inspect.ismethod(params):
        name = params.__name__
        raise TypeError(f"{optimizer} takes parameters, and got the method {name} itself: call it, {name}()")


def checked_group(
    param_group: dict[str, Any],
    param_groups: Sequence[Mapping[str, Any]],
    requested: str | None,
    keys: GroupKeys,
    precision: Precision | None,
) -> dict[str, Any]:
    """The param group as torch is to take it: a copy, since torch writes into what it is given.

    Args:
        param_group: the new group; what torch refuses by itself is handed back as it came.
        param_groups: those that there are.
        requested: the backend that was asked for.
        keys: what its groups must hold.
        precision: the precision policy.

    Raises:
        ValueError: for a hyperparameter out of range, and for a parameter that is given twice.
        TypeError: for a parameter of a type that the rule does not take, and for an argument of the constructor.
        RuntimeError: for flags that contradict one another.
    """
    if not isinstance(param_group, dict) or isinstance(param_group["params"], set):
        return param_group
    check_keys(param_group, len(param_groups), clips_itself=keys.spec.clips_itself)
    completed = {**keys.defaults, **param_group}
    keys.check(completed, f"param group {len(param_groups)}")
    flags.check_flags(completed, requested)
    params = param_group["params"]
    check_params(params, keys.optimizer)
    params = [params] if isinstance(params, Tensor) else list(params)
    differentiable = bool(keys.defaults.get("differentiable"))
    check_new_parameters(params, param_groups, differentiable=differentiable, takes_complex=keys.spec.takes_complex)
    for index, entry in enumerate(params if precision is not None else ()):
        parameter, place = entry, f"parameter {index} of param group {len(param_groups)}"
        if isinstance(entry, tuple):
            place, parameter = f"parameter {entry[0]!r}", entry[1]
        if can_step(parameter):  # others are checked when they have a gradient
            assert precision is not None
            check_precision(f"{place} of shape {tuple(parameter.shape)}", parameter, completed, precision)
    return {**param_group, "params": params}
