"""The element order of a step around the rule: the counterpart of ``csrc/pipeline.h``.

``prepare`` comes before the rule, ``choose`` after it; ``synchronise`` takes the parameter as it was rounded and
stored, and what it returns is stored in its place.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def prepare(
    gradient,
    parameter,
    keep,
    normal,
    gradient_scale,
    value_limit,
    noise_scale,
    weight_decay,
    value_clip: tl.constexpr,
    gradient_dropout: tl.constexpr,
    gradient_noise: tl.constexpr,
    coupled_decay: tl.constexpr,
):
    """The gradient as the rule sees it.

    Args:
        gradient: a block of the compute type.
        parameter: before any decay; not looked at without ``coupled_decay``.
        keep: ``philox.keep`` of the gradient dropout; not looked at without ``gradient_dropout``.
        normal: ``philox.normal``; not looked at without ``gradient_noise``.
        gradient_scale: inv_scale, the sign, the clip factor and the step size's factor in one.
        value_limit: the bound of ClipByValue times the step size's factor.
        noise_scale: the standard deviation of the noise.
        weight_decay: of the coupled decay.
        value_clip: whether values are clamped.
        gradient_dropout: whether elements are dropped.
        gradient_noise: whether noise is added.
        coupled_decay: whether the decay is added to the gradient.
    """
    gradient = gradient * gradient_scale
    if value_clip:
        # Selects and not tl.clamp: a NaN must survive, as in torch.clamp.
        gradient = tl.where(gradient > value_limit, value_limit, gradient)
        gradient = tl.where(gradient < -value_limit, -value_limit, gradient)
    if gradient_dropout:
        # A select and not a product: an infinite gradient that is dropped is 0.
        gradient = tl.where(keep, gradient, 0.0)
    if gradient_noise:
        gradient = gradient + noise_scale * normal.to(gradient.dtype)
    if coupled_decay:
        gradient = gradient + weight_decay * parameter
    return gradient


@triton.jit
def choose(decayed, stepped, keep):
    """LRDropout: the parameter after the rule, or before it, after decoupled decay, where the step is dropped."""
    return tl.where(keep, stepped, decayed)


@triton.jit
def synchronise(parameter, slow, alpha):
    """Lookahead after every k-th step: the new slow weights, which the parameter becomes too.

    slow <- slow + alpha (p - slow)
    """
    return slow + alpha * (parameter - slow)
