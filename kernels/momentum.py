"""The rules with a buffer at most: SGD, NormalizedSGD, SGDClip, MomClip, MixClip, AdaGradNorm (see ``rules``)."""

from __future__ import annotations

import triton
import triton.language as tl

from .numbers import quotient, root
from .operands import term

ROW_EPS = tl.constexpr(1e-10)  # added to the root of a row's sum by AdaGradNorm's authors


@triton.jit
def average(gradient, momentum_buffer, coefficients, slots: tl.constexpr):
    """The buffer of ``momentum`` after this gradient; without one the gradient. Its norm is what rules that clip
    themselves measure."""
    momentum, gradient_weight, _, _, _, _, _, _ = coefficients
    if slots & 1 != 0:
        return momentum * momentum_buffer + gradient_weight * gradient
    else:
        return gradient


@triton.jit
def momentum(parameter, gradient, state, coefficients, slots: tl.constexpr):
    """SGD, NormalizedSGD, SGDClip, MomClip, MixClip, AdaGradNorm (csrc/rules/momentum.h).

    m <- momentum m + gradient_weight g;  p <- p - (momentum_step m + gradient_step g)

    With a sum of squares for each element, which AdaGradNorm has over rows below two dimensions:
    s <- s + g^2;  p <- p - (momentum_step m + gradient_step g) / (sqrt(s) + root_offset)
    """
    momentum_buffer, sum, unused = state
    _, _, momentum_step, gradient_step, root_offset, _, _, _ = coefficients
    if slots & 1 != 0:
        momentum_buffer = average(gradient, momentum_buffer, coefficients, slots)
        step = term(gradient_step, gradient) + momentum_step * momentum_buffer
    else:
        step = gradient_step * gradient
    if slots & 2 != 0:
        sum = sum + gradient * gradient
        step = quotient(step, root(sum) + root_offset)
    return parameter - step, (momentum_buffer, sum, unused)


@triton.jit
def momentum_coefficients(momentum, gradient_weight, momentum_step, gradient_step):
    zero = tl.zeros_like(momentum)
    return momentum, gradient_weight, momentum_step, gradient_step, zero + ROW_EPS, zero, zero, zero


@triton.jit
def averaged_momentum(momentum, momentum_step, gradient_step):
    """An average of gradients has weight 1 - momentum; without a buffer both steps fall on the gradient."""
    none = momentum == 0
    return momentum_coefficients(
        momentum,
        1.0 - momentum,
        tl.where(none, 0.0, momentum_step),
        tl.where(none, momentum_step + gradient_step, gradient_step),
    )


@triton.jit
def sgd(h, first):
    """m <- g at first, then momentum m + (1 - dampening) g;  p <- p - lr m, or p - lr (g + momentum m)"""
    lr, momentum, dampening, nesterov, _, _, _, _ = h
    none = momentum == 0
    return momentum_coefficients(
        tl.where(first, 0.0, momentum),
        tl.where(first | none, 1.0, 1.0 - dampening),
        tl.where(none, 0.0, tl.where(nesterov != 0, lr * momentum, lr)),
        tl.where(none | (nesterov != 0), lr, 0.0),
    )


@triton.jit
def normalized_factor(h, norms):
    """1 / (|m| + eps); with eps = 0 a zero direction stays a zero step."""
    _, _, eps, _, _, _, _, _ = h
    _, direction_norm, _ = norms
    length = direction_norm + eps
    return tl.where(length == 0, 1.0, 1.0 / length)


@triton.jit
def normalized_sgd(h, norms):
    """p <- p - lr m / (|m| + eps)"""
    lr, momentum, _, _, _, _, _, _ = h
    return averaged_momentum(momentum, lr * normalized_factor(h, norms), tl.zeros_like(lr))


@triton.jit
def clipped_step_factor(norm, lr, gamma, smooth):
    """h(norm) / lr of Zhang et al. 2020: 1 / (1 + lr norm / gamma), or min(1, gamma / (lr norm)); 1 for a norm of 0."""
    ratio = lr * norm / gamma
    hard = tl.where(ratio <= 1.0, 1.0, 1.0 / ratio)
    return tl.where(smooth != 0, 1.0 / (1.0 + ratio), hard)


@triton.jit
def mix_clip_factor(h, norms):
    """h(|m|) / lr"""
    lr, _, gamma, _, smooth, _, _, _ = h
    _, direction_norm, _ = norms
    return clipped_step_factor(direction_norm, lr, gamma, smooth)


@triton.jit
def mix_clip(h, norms):
    """p <- p - nu h(|m|) m - (1 - nu) h(|g|) g"""
    lr, momentum, gamma, nu, smooth, _, _, _ = h
    gradient_norm, _, _ = norms
    gradient_factor = clipped_step_factor(gradient_norm, lr, gamma, smooth)
    # At nu = 1 the gradient term is left out: 0 times an infinite norm's factor must not reach the parameters.
    gradient_step = tl.where(nu == 1.0, 0.0, (1.0 - nu) * lr * gradient_factor)
    return averaged_momentum(momentum, nu * lr * mix_clip_factor(h, norms), gradient_step)


@triton.jit
def adagrad_norm(h, norms):
    """p <- p - lr m / sqrt(s)"""
    lr, momentum, _, _, _, _, _, _ = h
    _, _, root_factor = norms
    return averaged_momentum(momentum, lr * root_factor, tl.zeros_like(lr))
