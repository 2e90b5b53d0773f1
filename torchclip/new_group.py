"""What a param group must be before an optimizer takes it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from torchclip import backend as backends
from torchclip.checks import check_hyperparameters, check_new_parameters
from torchclip.group_clip import check_keys

if TYPE_CHECKING:
    from torchclip.optimizer import FusedOptimizer


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
    defaults: Mapping[str, Any],
    requested: str | None,
    cls: type[FusedOptimizer],
) -> dict[str, Any]:
    """The param group as torch is to take it: a copy, since torch writes into what it is given.

    Args:
        param_group: the new group; what torch refuses by itself is handed back as it came.
        param_groups: those that there are.
        defaults: of the optimizer.
        requested: the backend that was asked for.
        cls: of the optimizer.

    Raises:
        ValueError: for a hyperparameter out of range, and for a parameter that is given twice.
        TypeError: for a parameter of a type that the rule does not take, and for an argument of the constructor.
        RuntimeError: for flags that contradict one another.
    """
    if not isinstance(param_group, dict) or isinstance(param_group["params"], set):
        return param_group
    check_keys(param_group, len(param_groups), clips_itself=cls.spec.clips_itself)
    completed = {**defaults, **param_group}
    check_hyperparameters(completed, cls.hyperparameter_checks)
    for key in ("weight_decay", "decoupled_weight_decay", "maximize"):
        if completed.get(key) and key not in defaults:
            raise ValueError(
                f"{cls.__name__} has no {key}, and a param group sets {key}={completed[key]}: leave it out"
            )
    backends.check_flags(completed, requested)
    params = param_group["params"]
    check_params(params, cls.__name__)
    params = [params] if isinstance(params, Tensor) else list(params)
    differentiable = bool(defaults.get("differentiable"))
    check_new_parameters(params, param_groups, differentiable=differentiable, takes_complex=cls.spec.takes_complex)
    return {**param_group, "params": params}
