"""The order of one step for one tensor: the one place of the reference path that writes it.

g ← grad · inv_scale            raw_gradient
g ← −g                          raw_gradient, if maximize
g ← g · clip_factor             prepare: measured on the raw gradient; or clamped by ClipByValue
g ← g · lr_scale                prepare: the step size's factor
g ← 0                           prepare, where GradientDropout drops
g ← g + σ · normal              prepare: GradientNoise
g ← g + weight_decay · p        prepare, unless the decay is decoupled
p ← p − lr · weight_decay · p   decay, if it is decoupled
p ← rule(p, g, state)           except where LRDropout drops: in ``step``
s ← s + α · (p − s), p ← s      look_ahead: Lookahead, after every k-th step, from the rounded p
e ← d · e + (1 − d) · p         average: WeightEMA, in Lookahead's place
"""

from __future__ import annotations

import torch
from torch import Tensor

from torchclip.policies.clip import ClipByValue
from torchclip.rules.rule_spec import Group


def raw_gradient(gradient: Tensor, group: Group, inv_scale: Tensor | None) -> Tensor:
    """The gradient, in the compute type, at the point where a clip policy measures it.

    Args:
        gradient: ``parameter.grad``, of the parameter's type; the compute type is float64 for float64, and float32 for
            all narrower ones.
        group: the param group.
        inv_scale: 0-dim; what undoes the scale of a GradScaler, or None.
    """
    gradient = gradient.to(torch.promote_types(gradient.dtype, torch.float32))
    if inv_scale is not None:
        gradient = gradient * inv_scale.to(gradient.device)
    return -gradient if group.get("maximize", False) else gradient


def prepare(
    gradient: Tensor,
    parameter: Tensor,
    group: Group,
    clip: Tensor | ClipByValue | None = None,
    lr_scale: Tensor | None = None,
    dropped: Tensor | None = None,
    noise: Tensor | None = None,
) -> Tensor:
    """The gradient as the rule sees it, from the raw one.

    Args:
        gradient: the raw gradient.
        parameter: the parameter in the compute type, before any decay.
        group: the param group.
        clip: the factor of a clip policy, 0-dim or [rows, 1, …], or the policy that clamps; None for none.
        lr_scale: 0-dim, the factor of a step size; None for none.
        dropped: which elements become 0: booleans in the shape of the gradient; None for none.
        noise: what is added, in the shape and the type of the gradient; None for nothing.
    """
    # Factors come in float64, and one for each row would promote a float32 gradient.
    if isinstance(clip, ClipByValue):
        gradient = gradient.clamp(-clip.max_value, clip.max_value)
    elif clip is not None:
        gradient = gradient * clip.to(gradient)
    if lr_scale is not None:
        gradient = gradient * lr_scale.to(gradient)
    if dropped is not None:
        gradient = torch.where(dropped, 0.0, gradient)
    if noise is not None:
        gradient = gradient + noise
    # A decay of 0 is left out: it would turn an infinite parameter into a NaN.
    if group.get("weight_decay", 0) != 0 and not group.get("decoupled_weight_decay", False):
        gradient = gradient + group["weight_decay"] * parameter
    return gradient


def decay(parameter: Tensor, group: Group) -> Tensor:
    """The parameter, in the compute type, after decoupled decay: what the rule steps from."""
    if group.get("weight_decay", 0) != 0 and group.get("decoupled_weight_decay", False):
        decayed: Tensor = parameter * (1 - group["lr"] * group["weight_decay"])
        return decayed
    return parameter


def look_ahead(slow: Tensor, parameter: Tensor, alpha: float | Tensor) -> Tensor:
    """The new slow weights, which are also the new parameter, from the parameter as it was rounded to its type."""
    return slow + alpha * (parameter - slow)


def average(ema: Tensor, parameter: Tensor, weight: float | Tensor) -> Tensor:
    """The new average; ``weight`` is that of the parameter, 1 − d."""
    return look_ahead(ema, parameter, weight.to(ema) if isinstance(weight, Tensor) else weight)
