"""The element order of a step up to the rule: the counterpart of ``csrc/pipeline.h``."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def prepare(
    gradient,
    parameter,
    gradient_scale,
    value_limit,
    weight_decay,
    value_clip: tl.constexpr,
    coupled_decay: tl.constexpr,
):
    """The gradient as the rule sees it: scaled, clamped to the value limit, with coupled decay."""
    gradient = gradient * gradient_scale
    if value_clip:
        # Selects and not tl.clamp: a NaN must survive, as in torch.clamp.
        gradient = tl.where(gradient > value_limit, value_limit, gradient)
        gradient = tl.where(gradient < -value_limit, -value_limit, gradient)
    if coupled_decay:
        gradient = gradient + weight_decay * parameter
    return gradient
