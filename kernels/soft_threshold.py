"""The rules whose parameter is an accumulator drawn to zero: gRDA, LinBreg, AdaBreg (see ``rules``)."""

from __future__ import annotations

import triton
import triton.language as tl

from .numbers import power, quotient, root, whole_power


@triton.jit
def soft_threshold(gradient, state, coefficients, slots: tl.constexpr):
    """gRDA, LinBreg, AdaBreg (csrc/rules/soft_threshold.h).

    m <- beta1 m + gradient_weight g;  s <- beta2 s + square_weight g^2
    v <- v - step m / (sqrt(s) + root_offset);  p <- scale sign(v) max(|v| - threshold, 0)
    """
    accumulator, exp_avg, exp_avg_sq = state
    step, threshold, scale, beta1, gradient_weight, beta2, square_weight, root_offset = coefficients
    direction = gradient
    if slots & 2 != 0:
        exp_avg = beta1 * exp_avg + gradient_weight * gradient
        direction = exp_avg
    if slots & 4 != 0:
        exp_avg_sq = beta2 * exp_avg_sq + square_weight * gradient * gradient
        direction = quotient(direction, root(exp_avg_sq) + root_offset)
    accumulator = accumulator - step * direction
    size = tl.abs(accumulator) - threshold
    size = scale * tl.where(size < 0, 0.0, size)
    return tl.where(accumulator < 0, -size, size), (accumulator, exp_avg, exp_avg_sq)


@triton.jit
def grda(h, scalars):
    """l1 <- l1 + c lr^(mu + 1/2) (t^mu - (t - 1)^mu)"""
    lr, c, mu, _, _, _, _, _ = h
    step, l1 = scalars
    growth = power(step + 1.0, mu) - power(step, mu)
    l1 = l1 + c * power(lr, mu + 0.5) * growth
    zero = tl.zeros_like(lr)
    return (lr, l1, zero + 1.0, zero, zero, zero, zero, zero), (step + 1.0, l1)


@triton.jit
def lin_breg(h):
    """m <- momentum m + (1 - momentum) lr g;  v <- v - m, or without momentum v - lr g"""
    lr, lam, delta, momentum, _, _, _, _ = h
    zero = tl.zeros_like(lr)
    has_buffer = momentum != 0
    weight = tl.where(has_buffer, (1.0 - momentum) * lr, zero)
    return tl.where(has_buffer, 1.0, lr), lam, delta, momentum, weight, zero, zero, zero


@triton.jit
def ada_breg(h, scalars):
    """v <- v - lr / (1 - beta1^t) m / (sqrt(s) / sqrt(1 - beta2^t) + eps)"""
    lr, lam, delta, beta1, beta2, eps, _, _ = h
    step, unused = scalars
    step = step + 1.0
    correction = tl.sqrt(1.0 - whole_power(beta2, step))
    size = lr * correction / (1.0 - whole_power(beta1, step))
    return (size, lam, delta, beta1, 1.0 - beta1, beta2, 1.0 - beta2, eps * correction), (step, unused)
