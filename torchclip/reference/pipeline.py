"""The order of one step for one tensor, up to the rule: the one place of the reference path that writes it.

    g ← grad · inv_scale            raw_gradient
    g ← −g                          raw_gradient, if maximize
    g ← g · clip_factor             prepare: measured on the raw gradient; or clamped by ClipByValue
    g ← g + weight_decay · p        prepare, unless the decay is decoupled
    p ← p − lr · weight_decay · p   decay, if it is decoupled

Step sizes that scale the gradient belong beside the clip factor, dropout and noise between it and the coupled decay.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from torchclip.clip import ClipByValue

Group = Mapping[str, Any]


def compute_dtype(parameter: Tensor) -> torch.dtype:
    """float64 for float64 parameters, float32 for all narrower ones."""
    return torch.promote_types(parameter.dtype, torch.float32)


def raw_gradient(gradient: Tensor, group: Group, inv_scale: Tensor | None) -> Tensor:
    """The gradient, in the compute type, at the point where a clip policy measures it.

    Args:
        gradient: ``parameter.grad``, of the parameter's type.
        group: the param group.
        inv_scale: 0-dim; what undoes the scale of a GradScaler, or None.
    """
    gradient = gradient.to(compute_dtype(gradient))
    if inv_scale is not None:
        gradient = gradient * inv_scale
    return -gradient if group.get("maximize", False) else gradient


def prepare(gradient: Tensor, parameter: Tensor, group: Group, clip: Tensor | ClipByValue | None) -> Tensor:
    """The gradient as the rule sees it, from the raw one.

    Args:
        gradient: the raw gradient.
        parameter: the parameter in the compute type, before any decay.
        group: the param group.
        clip: 0-dim, the factor of a clip policy; or the policy that clamps; or None.
    """
    if isinstance(clip, ClipByValue):
        gradient = gradient.clamp(-clip.max_value, clip.max_value)
    elif clip is not None:
        gradient = gradient * clip
    if _decays(group) and not group.get("decoupled_weight_decay", False):
        gradient = gradient + group["weight_decay"] * parameter
    return gradient


def decay(parameter: Tensor, group: Group) -> Tensor:
    """The parameter, in the compute type, after decoupled decay: what the rule steps from."""
    if _decays(group) and group.get("decoupled_weight_decay", False):
        return parameter * (1 - group["lr"] * group["weight_decay"])
    return parameter


def _decays(group: Group) -> bool:
    """False for a decay of 0, which must not turn an infinite parameter into a NaN."""
    return bool(group.get("weight_decay", 0) != 0)
