"""The update rules, element by element: what ``csrc/rules/<rule>.h`` calls accumulate and apply, in one function each.

Every function returns the new parameter and the new state. Arguments are blocks of the compute type; coefficients are
scalars with the names and the meaning of the C++ functor's.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def momentum(
    parameter,
    gradient,
    momentum_buffer,
    sum,
    momentum,
    gradient_weight,
    momentum_step,
    gradient_step,
    root_offset,
    has_buffer: tl.constexpr,
    has_sum: tl.constexpr,
):
    """SGD, NormalizedSGD, SGDClip, MomClip, MixClip, AdaGradNorm (csrc/rules/momentum.h).

    m <- momentum m + gradient_weight g;  p <- p - (momentum_step m + gradient_step g)

    With a sum of squares for each element, which AdaGradNorm has over rows below two dimensions:
    s <- s + g^2;  p <- p - (momentum_step m + gradient_step g) / (sqrt(s) + root_offset)
    """
    step = gradient_step * gradient
    if has_buffer:
        momentum_buffer = momentum * momentum_buffer + gradient_weight * gradient
        step += momentum_step * momentum_buffer
    if has_sum:
        sum = sum + gradient * gradient
        step = step / (tl.sqrt(sum) + root_offset)
    return parameter - step, momentum_buffer, sum


@triton.jit
def second_moment(
    parameter,
    gradient,
    exp_avg,
    exp_avg_sq,
    max_exp_avg_sq,
    beta1,
    gradient_weight,
    beta2,
    square_weight,
    momentum_step,
    gradient_step,
    root_scale,
    root_offset,
    has_maximum: tl.constexpr,
):
    """Adam, AdamW, AMSGrad (csrc/rules/adam.h).

    m <- beta1 m + gradient_weight g;  v <- beta2 v + square_weight g^2
    p <- p - (momentum_step m + gradient_step g) / (root_scale sqrt(v) + root_offset)
    """
    exp_avg = beta1 * exp_avg + gradient_weight * gradient
    exp_avg_sq = beta2 * exp_avg_sq + square_weight * gradient * gradient
    second = exp_avg_sq
    if has_maximum:
        # A select and not tl.maximum: a NaN must survive, as in torch.maximum.
        max_exp_avg_sq = tl.where(exp_avg_sq < max_exp_avg_sq, max_exp_avg_sq, exp_avg_sq)
        second = max_exp_avg_sq
    numerator = momentum_step * exp_avg + gradient_step * gradient
    parameter = parameter - numerator / (root_scale * tl.sqrt(second) + root_offset)
    return parameter, exp_avg, exp_avg_sq, max_exp_avg_sq


@triton.jit
def root_mean_square(
    parameter,
    gradient,
    square_avg,
    momentum_buffer,
    grad_avg,
    square_decay,
    square_weight,
    momentum,
    step,
    eps,
    has_buffer: tl.constexpr,
    centered: tl.constexpr,
):
    """RMSprop, Adagrad (csrc/rules/root_mean_square.h).

    s <- square_decay s + square_weight g^2;  a <- square_decay a + square_weight g;  d = sqrt(s - a^2) + eps
    b <- momentum b + g / d;  p <- p - step b
    """
    square_avg = square_decay * square_avg + square_weight * gradient * gradient
    square = square_avg
    if centered:
        grad_avg = square_decay * grad_avg + square_weight * gradient
        square = square_avg - grad_avg * grad_avg
        square = tl.where(square < 0, 0.0, square)
    direction = gradient / (tl.sqrt(square) + eps)
    if has_buffer:
        momentum_buffer = momentum * momentum_buffer + direction
        direction = momentum_buffer
    return parameter - step * direction, square_avg, momentum_buffer, grad_avg


@triton.jit
def soft_threshold(gradient, accumulator, lr, threshold):
    """gRDA (csrc/rules/grda.h).

    accumulator <- accumulator - lr g;  p <- sign(accumulator) max(|accumulator| - threshold, 0)
    """
    accumulator = accumulator - lr * gradient
    size = tl.abs(accumulator) - threshold
    size = tl.where(size < 0, 0.0, size)
    return tl.where(accumulator < 0, -size, size), accumulator
