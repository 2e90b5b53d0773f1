"""timm: every optimizer of torchclip in its registry."""

from __future__ import annotations

import dataclasses
import inspect
from importlib import import_module
from typing import Any

import torch

from torchclip import optimizers
from torchclip.step.fused_optimizer import FusedOptimizer

PREFIX = "torchclip-"
"""In front of a class's name in lower case: no underscore, at which timm cuts a name."""

_REQUIRED: dict[str, float] = {"lr": 0.1, "gamma": 1.0}
"""What a class asks for and timm does not pass unless its user does."""


def register() -> list[str]:
    """Puts every optimizer into timm's registry: ``--opt torchclip-adamw`` of its scripts, or ``create_optimizer_v2``.

    A class of the same name as one of ``torch.optim`` that timm has keeps timm's defaults, Nesterov's momentum of
    ``sgd`` among them. Of the others, those with a momentum take timm's, 0.9 unless it is given, and ``gamma`` is 1;
    ``lam`` of the sparse ones has no default and is given.
    ``clip=`` is an option as any other, ``--opt-kwargs clip=1.0``; timm's own clipping, ``--clip-grad``, is left out.

    Returns:
        The names, in the order of the classes.

    Raises:
        ImportError: timm is not installed, or is older than its registry: ``pip install 'timm>=1.0.12'``.

    Example::

        torchclip.integrations.timm.register()
        optimizer = timm.optim.create_optimizer_v2(model, "torchclip-adamw", lr=1e-3, weight_decay=0.05, clip=1.0)

    Source: ``timm.optim`` of timm 1.0 (Wightman, PyTorch Image Models).
    """
    try:
        factory = import_module("timm.optim._optim_factory")
        registry = factory.default_registry
    except (ImportError, AttributeError) as error:
        raise ImportError(f"timm has no registry of optimizers here ({error}): pip install 'timm>=1.0.12'") from error
    known = set(registry.list_optimizers())
    names = []
    for name in dict.fromkeys(getattr(optimizers, name).__name__ for name in optimizers.__all__):
        cls = getattr(optimizers, name)
        info = registry.get_optimizer_info(name.lower()) if name.lower() in known else None
        if info is None or info.opt_class is not getattr(torch.optim, name, None):
            info = factory.OptimInfo(name, cls, **_described(cls))
        description = f"torchclip.{name}, which clips in its step: clip=max_norm"
        registered = dataclasses.replace(info, name=PREFIX + name.lower(), opt_class=cls, description=description)
        if registered.name not in known:
            registry.register(registered)
        names.append(registered.name)
    return names


def _described(cls: type[FusedOptimizer]) -> dict[str, Any]:
    """What timm asks of a class that torch does not have."""
    parameters = inspect.signature(cls).parameters
    required = [name for name, each in parameters.items() if each.default is each.empty and name != "params"]
    return {
        "has_eps": "eps" in parameters,
        "has_momentum": "momentum" in parameters,
        "has_betas": "betas" in parameters,
        "defaults": {name: _REQUIRED[name] for name in required if name in _REQUIRED} or None,
    }
