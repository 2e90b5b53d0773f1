"""The update rules: the element's step of each functor of ``csrc/rules``, and the coefficients of each rule.

A functor's function takes the parameter after decoupled decay, the gradient as the rule sees it, three state blocks and
eight coefficients, with the names and the meaning of the C++ functor's; what a rule does not have is not looked at. It
returns the new parameter and the new state. Everything is of the compute type.

A rule's function is the counterpart of ``coefficients`` in ``csrc/rules/<rule>.h``, on blocks of float64, one number
for each set of coefficients. ``h`` holds lr and the rule's other hyperparameters in the order of the C++ struct,
``scalars`` its numbers of state before the step. Returned are eight coefficients in the order of the functor's, 0 where
it has fewer, and the numbers of state after the step.

Here are the rules that share no arithmetic with others, and the two lists of all.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .momentum import adagrad_norm, mix_clip, mix_clip_factor, momentum, normalized_factor, normalized_sgd, sgd
from .numbers import quotient, root
from .second_moment import adam, nadam, radam, second_moment
from .soft_threshold import ada_breg, grda, lin_breg, soft_threshold


@triton.jit
def apply(run: tl.constexpr, parameter, gradient, state, coefficients):
    """The rule of ``run.family``: the one place that lists the functors.

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
    elif run.family == "soft_threshold":
        return soft_threshold(gradient, state, coefficients, run.slots)
    else:
        tl.static_assert(run.family == "sign_of_average")
        return sign_of_average(parameter, gradient, state, coefficients)


@triton.jit
def coefficients(finish: tl.constexpr, h, scalars, first, norms):
    """Of the rule ``finish.rule``, its name in csrc/rules/registry.h: the one place that lists the rules.

    Args:
        finish: what the kernel is compiled for.
        h: a tuple of eight.
        scalars: a tuple of two.
        first: whether the state was made in this step.
        norms: of rules that clip themselves: of the gradient as the rule sees it, of its direction, and
            1 / sqrt(sum of the squared norms of all steps).
    """
    if finish.rule == "sgd":
        return sgd(h, first), scalars
    elif finish.rule == "normalized_sgd":
        return normalized_sgd(h, norms), scalars
    elif finish.rule == "mix_clip":
        return mix_clip(h, norms), scalars
    elif finish.rule == "adam":
        return adam(h, scalars)
    elif finish.rule == "nadam":
        return nadam(h, scalars)
    elif finish.rule == "radam":
        return radam(h, scalars)
    elif finish.rule == "rmsprop":
        return rmsprop(h, scalars)
    elif finish.rule == "adagrad":
        return adagrad(h, scalars)
    elif finish.rule == "adagrad_norm":
        return adagrad_norm(h, norms), scalars
    elif finish.rule == "grda":
        return grda(h, scalars)
    elif finish.rule == "lion":
        return lion(h), scalars
    elif finish.rule == "lin_breg":
        return lin_breg(h), scalars
    else:
        tl.static_assert(finish.rule == "ada_breg")
        return ada_breg(h, scalars)


@triton.jit
def direction_factor(finish: tl.constexpr, h, norms):
    """The factor on lr times the direction of a rule that clips itself."""
    if finish.rule == "normalized_sgd":
        return normalized_factor(h, norms)
    elif finish.rule == "mix_clip":
        return mix_clip_factor(h, norms)
    else:
        tl.static_assert(finish.rule == "adagrad_norm")
        _, _, root_factor = norms
        return root_factor


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
def rmsprop(h, scalars):
    """s <- alpha s + (1 - alpha) g^2"""
    lr, alpha, eps, momentum, _, _, _, _ = h
    step, unused = scalars
    zero = tl.zeros_like(lr)
    return (alpha, 1.0 - alpha, momentum, lr, eps, zero, zero, zero), (step + 1.0, unused)


@triton.jit
def adagrad(h, scalars):
    """p <- p - lr / (1 + (t - 1) lr_decay) g / (sqrt(sum) + eps)"""
    lr, lr_decay, eps, _, _, _, _, _ = h
    step, unused = scalars
    zero = tl.zeros_like(lr)
    one = zero + 1.0
    # As many steps as were taken before this one: t - 1.
    return (one, one, zero, lr / (1.0 + step * lr_decay), eps, zero, zero, zero), (step + 1.0, unused)


@triton.jit
def sign_of_average(parameter, gradient, state, coefficients):
    """Lion (csrc/rules/lion.h).

    p <- p - lr sign(beta1 m + step_weight g);  m <- beta2 m + state_weight g
    """
    exp_avg, second, third = state
    lr, beta1, step_weight, beta2, state_weight, _, _, _ = coefficients
    average = beta1 * exp_avg + step_weight * gradient
    exp_avg = beta2 * exp_avg + state_weight * gradient
    sign = tl.where(average > 0, 1.0, tl.where(average < 0, -1.0, average))  # of 0 and NaN themselves
    return parameter - lr * sign, (exp_avg, second, third)


@triton.jit
def lion(h):
    lr, beta1, beta2, _, _, _, _, _ = h
    zero = tl.zeros_like(lr)
    return lr, beta1, 1.0 - beta1, beta2, 1.0 - beta2, zero, zero, zero
