"""Optimizers by name, for what reads the name from a command line or a configuration file."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import ParamsT

from torchclip import optim, optimizers
from torchclip.param_groups import param_groups_weight_decay
from torchclip.step.fused_optimizer import FusedOptimizer

_PRESETS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "momentum": ("SGD", {"momentum": 0.9}),
    "nesterov": ("SGD", {"momentum": 0.9, "nesterov": True}),
}
"""Names that are no class's: the class, and its arguments where the caller gives no others."""

_CLASSES = [name for name in optimizers.__all__ if getattr(optimizers, name).__name__ == name]  # no other names of them
_SPELLINGS = {name.lower(): name for name in (*_CLASSES, *_PRESETS)}


def optimizer_class(name: str) -> tuple[type[FusedOptimizer], dict[str, Any]]:
    """The class that a name of :func:`create_optimizer` stands for, and the arguments that come with the name.

    Raises:
        ValueError: there is no such name; the message has the nearest ones.
        TypeError: it is no text.
    """
    if not isinstance(name, str):
        raise TypeError(
            f"the name of an optimizer is {type(name).__name__}, and text is wanted: create_optimizer('adamw', model)"
        )
    asked = name.lower().replace("_", "").replace("-", "")
    if asked not in _SPELLINGS:
        torchs = next((one for one in dir(torch.optim) if one.lower() == asked != "optimizer"), None)
        if torchs is not None and isinstance(getattr(torch.optim, torchs), type):
            raise ValueError(optim._reason_against(torchs))
        nearest = [_SPELLINGS[one] for one in difflib.get_close_matches(asked, _SPELLINGS)]
        meant = (
            f"did you mean {' or '.join(nearest)}?" if nearest else f"the names are {', '.join(_SPELLINGS.values())}"
        )
        raise ValueError(f"there is no optimizer {name!r}: {meant}")
    cls, arguments = _PRESETS.get(asked, (_SPELLINGS[asked], {}))
    return getattr(optimizers, cls), dict(arguments)


def create_optimizer(
    name: str, model_or_params: nn.Module | ParamsT, *, filter_bias_and_bn: bool = False, **options: Any
) -> FusedOptimizer:
    """The optimizer of this name.

    Args:
        name: of a class of torchclip, in any case, with or without underscores and hyphens: ``"adamw"``,
            ``"mix_clip"``, ``"AdaGradNorm"``; ``"momentum"`` and ``"nesterov"`` are :class:`~torchclip.SGD` with a
            momentum of 0.9.
        model_or_params: a model, whose parameters keep their names, or what the class takes as its ``params``.
        filter_bias_and_bn: the model's biases and norms do not decay, nor what its ``no_weight_decay()`` names, as
            that of timm's models does: :func:`~torchclip.param_groups_weight_decay`. The others decay by the
            ``weight_decay`` of the options, or by the class's own default.
        options: the class's other arguments, ``clip`` and ``extensions`` among them.

    Raises:
        TypeError: the name is no text.
        ValueError: there is no such name, and the message has the nearest ones; ``filter_bias_and_bn`` for a class
            without weight decay; an option's value that the class refuses.
        TypeError: an option that the class does not have; ``filter_bias_and_bn`` without a model.

    Example:
        >>> import torch
        >>> import torchclip
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.LayerNorm(3))
        >>> optimizer = torchclip.create_optimizer("adamw", model, filter_bias_and_bn=True, lr=3e-4, clip=1.0)
        >>> [(group["weight_decay"], group["param_names"]) for group in optimizer.param_groups]
        [(0.01, ['0.weight']), (0.0, ['0.bias', '1.weight', '1.bias'])]

    Source: the arguments are those of ``create_optimizer_v2`` of timm (Wightman, PyTorch Image Models), the name first.
    """
    cls, arguments = optimizer_class(name)
    arguments |= options
    if not isinstance(model_or_params, nn.Module):
        if filter_bias_and_bn:
            raise TypeError(
                f"filter_bias_and_bn=True goes by the modules of a model, got {type(model_or_params).__name__}: "
                "pass the model, or the groups of torchclip.param_groups_weight_decay(model, weight_decay) without it"
            )
        return cls(model_or_params, **arguments)
    if filter_bias_and_bn:
        return cls(_spared(cls, model_or_params, arguments), **arguments)
    return cls(model_or_params.named_parameters(), **arguments)


def _spared(cls: type[FusedOptimizer], model: nn.Module, arguments: Mapping[str, Any]) -> ParamsT:
    """The param groups of ``filter_bias_and_bn=True``."""
    has = inspect.signature(cls).parameters
    if "weight_decay" not in cls.hyperparameter_checks:
        raise ValueError(f"{cls.__name__} has no weight decay to spare biases and norms: leave out filter_bias_and_bn")
    named = getattr(model, "no_weight_decay", None)
    weight_decay = arguments.get("weight_decay", has["weight_decay"].default)
    return param_groups_weight_decay(model, weight_decay, no_weight_decay=named() if callable(named) else ())
