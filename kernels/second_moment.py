"""The rules with two moments: Adam, AdamW, AMSGrad, NAdam, RAdam (see ``rules``)."""

from __future__ import annotations

import triton
import triton.language as tl

from .numbers import power, quotient, root, whole_power
from .operands import term

NADAM_BASE = tl.constexpr(0.96)


@triton.jit
def second_moment(parameter, gradient, state, coefficients, slots: tl.constexpr):
    """Adam, AdamW, AMSGrad, NAdam, RAdam (csrc/rules/second_moment.h).

    m <- beta1 m + gradient_weight g;  v <- beta2 v + square_weight g^2
    p <- p - (momentum_step m + gradient_step g) / (root_scale sqrt(v) + root_offset)
    """
    exp_avg, exp_avg_sq, max_exp_avg_sq = state
    beta1, gradient_weight, beta2, square_weight, momentum_step, gradient_step, root_scale, root_offset = coefficients
    exp_avg = beta1 * exp_avg + gradient_weight * gradient
    exp_avg_sq = beta2 * exp_avg_sq + square_weight * gradient * gradient
    second = exp_avg_sq
    if slots & 4 != 0:
        # Selects and not tl.maximum: a NaN in either must survive, as in torch.maximum.
        is_larger = (exp_avg_sq > max_exp_avg_sq) | (exp_avg_sq != exp_avg_sq)
        max_exp_avg_sq = tl.where(is_larger, exp_avg_sq, max_exp_avg_sq)
        second = max_exp_avg_sq
    numerator = momentum_step * exp_avg + term(gradient_step, gradient)
    # The root of what the scale leaves out may be infinite: v overflows before m does.
    parameter = parameter - quotient(numerator, term(root_scale, root(second)) + root_offset)
    return parameter, (exp_avg, exp_avg_sq, max_exp_avg_sq)


@triton.jit
def adam(h, scalars):
    """p <- p - lr / (1 - beta1^t) m / (sqrt(v) / sqrt(1 - beta2^t) + eps)"""
    lr, beta1, beta2, eps, _, _, _, _ = h
    step, unused = scalars
    step = step + 1.0
    root_scale = 1.0 / tl.sqrt(1.0 - whole_power(beta2, step))
    momentum_step = lr / (1.0 - whole_power(beta1, step))
    zero = tl.zeros_like(lr)
    return (beta1, 1.0 - beta1, beta2, 1.0 - beta2, momentum_step, zero, root_scale, eps), (step, unused)


@triton.jit
def nadam(h, scalars):
    """mu_t = beta1 (1 - 0.96^(t momentum_decay) / 2)
    p <- p - lr (mu_(t+1) m / (1 - mu_product_(t+1)) + (1 - mu_t) g / (1 - mu_product_t))
             / (sqrt(v / (1 - beta2^t)) + eps)
    """
    lr, beta1, beta2, eps, momentum_decay, _, _, _ = h
    step, mu_product = scalars
    step = step + 1.0
    base = tl.zeros_like(lr) + NADAM_BASE
    momentum = beta1 * (1.0 - 0.5 * power(base, step * momentum_decay))
    following = beta1 * (1.0 - 0.5 * power(base, (step + 1.0) * momentum_decay))
    mu_product = mu_product * momentum
    momentum_step = lr * following / (1.0 - mu_product * following)
    gradient_step = lr * (1.0 - momentum) / (1.0 - mu_product)
    root_scale = 1.0 / tl.sqrt(1.0 - whole_power(beta2, step))
    return (beta1, 1.0 - beta1, beta2, 1.0 - beta2, momentum_step, gradient_step, root_scale, eps), (step, mu_product)


@triton.jit
def radam(h, scalars):
    """rho_t = rho_inf - 2 t beta2^t / (1 - beta2^t);  Adam times r_t where rho_t > 5, momentum alone before"""
    lr, beta1, beta2, eps, _, _, _, _ = h
    step, unused = scalars
    step = step + 1.0
    power2 = whole_power(beta2, step)
    correction2 = 1.0 - power2
    rho_inf = 2.0 / (1.0 - beta2) - 1.0
    rho = rho_inf - 2.0 * step * power2 / correction2
    rectified = rho > 5.0
    known = tl.where(rectified, rho, 6.0)  # of which the root below is real
    ratio = (known - 4.0) * (known - 2.0) * rho_inf / ((rho_inf - 4.0) * (rho_inf - 2.0) * known)
    rectification = tl.sqrt(tl.where(rectified, ratio, 1.0)) * tl.sqrt(correction2)
    momentum_step = lr / (1.0 - whole_power(beta1, step)) * tl.where(rectified, rectification, 1.0)
    zero = tl.zeros_like(lr)
    root_scale = tl.where(rectified, 1.0, zero)
    root_offset = tl.where(rectified, eps, 1.0)
    return (beta1, 1.0 - beta1, beta2, 1.0 - beta2, momentum_step, zero, root_scale, root_offset), (step, unused)
