"""The update rules, element by element: the functors of ``csrc/rules``, one function each.

A function takes the parameter after decoupled decay, the gradient as the rule sees it, three state blocks and eight
coefficients, with the names and the meaning of the C++ functor's; what a rule does not have is not looked at. It
returns the new parameter and the new state. Everything is of the compute type.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .operands import term


@triton.jit
def root(value):
    """Correctly rounded, and not flushed to 0 where it is small: of float32 tl.sqrt is an approximation on a GPU."""
    if value.dtype == tl.float32:
        return tl.sqrt_rn(value)
    else:
        return tl.sqrt(value)


@triton.jit
def quotient(value, divisor):
    """Correctly rounded: of float32 a plain division is an approximation on a GPU."""
    if value.dtype == tl.float32:
        return tl.div_rn(value, divisor)
    else:
        return value / divisor


@triton.jit
def apply(run: tl.constexpr, parameter, gradient, state, coefficients):
    """The rule of ``run.family``: the one place that lists them.

    Args:
        run: what the kernel is compiled for.
        parameter: after decoupled decay.
        gradient: as the rule sees it.
        state: a tuple of three.
        coefficients: a tuple of eight.
    """
    if run.family == "momentum":
        return momentum(parameter, gradient, state, coefficients, run.slots)
    elif run.family == "second_moment":
        return second_moment(parameter, gradient, state, coefficients, run.slots)
    elif run.family == "root_mean_square":
        return root_mean_square(parameter, gradient, state, coefficients, run.slots)
    else:
        tl.static_assert(run.family == "soft_threshold")
        return soft_threshold(gradient, state, coefficients)


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
def root_mean_square(parameter, gradient, state, coefficients, slots: tl.constexpr):
    """RMSprop, Adagrad (csrc/rules/root_mean_square.h).

    s <- square_decay s + square_weight g^2;  a <- square_decay a + square_weight g;  d = sqrt(s - a^2) + eps
    b <- momentum b + g / d;  p <- p - step b
    """
    square_avg, momentum_buffer, grad_avg = state
    square_decay, square_weight, momentum, step, eps, _, _, _ = coefficients
    square_avg = square_decay * square_avg + square_weight * gradient * gradient
    square = square_avg
    if slots & 4 != 0:
        grad_avg = square_decay * grad_avg + square_weight * gradient
        square = square_avg - grad_avg * grad_avg
        square = tl.where(square < 0, 0.0, square)
    direction = quotient(gradient, root(square) + eps)
    if slots & 2 != 0:
        momentum_buffer = momentum * momentum_buffer + direction
        direction = momentum_buffer
    return parameter - step * direction, (square_avg, momentum_buffer, grad_avg)


@triton.jit
def soft_threshold(gradient, state, coefficients):
    """gRDA (csrc/rules/grda.h).

    accumulator <- accumulator - lr g;  p <- sign(accumulator) max(|accumulator| - threshold, 0)
    """
    accumulator, second, third = state
    lr, threshold, _, _, _, _, _, _ = coefficients
    accumulator = accumulator - lr * gradient
    size = tl.abs(accumulator) - threshold
    size = tl.where(size < 0, 0.0, size)
    return tl.where(accumulator < 0, -size, size), (accumulator, second, third)
