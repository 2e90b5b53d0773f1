"""The element order of a step around the rule: the counterpart of ``csrc/pipeline.h``.

``prepare`` comes before the rule, ``choose`` after it; ``synchronise`` takes the parameter as it was
rounded and stored, and what it returns is stored in its place.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .tables import COUPLED_DECAY, GRADIENT_DROPOUT, GRADIENT_NOISE, VALUE_CLIP


@triton.jit
def prepare(
    gradient, parameter, keep, normal, gradient_scale, value_limit, noise_scale, weight_decay, stages: tl.constexpr
):
    """The gradient as the rule sees it.

    Args:
        gradient: a block of the compute type.
        parameter: before any decay; not looked at without ``COUPLED_DECAY``.
        keep: ``philox.keep`` of the gradient dropout; not looked at without ``GRADIENT_DROPOUT``.
        normal: ``philox.normal``; not looked at without ``GRADIENT_NOISE``.
        gradient_scale: inv_scale, the sign, the clip factor and the step size's factor in one.
        value_limit: the bound of ClipByValue times the step size's factor.
        noise_scale: the standard deviation of the noise.
        weight_decay: of the coupled decay.
        stages: bits, those in use.
    """
    gradient = gradient * gradient_scale
    if VALUE_CLIP & stages != 0:
        # Selects and not tl.clamp: a NaN must survive, as in torch.clamp.
        gradient = tl.where(gradient > value_limit, value_limit, gradient)
        gradient = tl.where(gradient < -value_limit, -value_limit, gradient)
    if GRADIENT_DROPOUT & stages != 0:
        # A select and not a product: an infinite gradient that is dropped is 0.
        gradient = tl.where(keep, gradient, 0.0)
    if GRADIENT_NOISE & stages != 0:
        gradient = gradient + noise_scale * normal.to(gradient.dtype)
    if COUPLED_DECAY & stages != 0:
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
