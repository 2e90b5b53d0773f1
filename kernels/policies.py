"""From a norm to a factor, and from a loss to a step size: the counterpart of ``csrc/policies.h``. Blocks or single
numbers, float64. Comparisons are written so that a NaN survives as it does there."""

from __future__ import annotations

import triton
import triton.language as tl

from .numbers import whole
from .operands import only_if
from .tables import (
    POLICY_LIMIT,
    POLICY_PERCENTILE,
    POLICY_RELATIVE_LIMIT,
    POLICY_SKIP_SIGMA,
    POLICY_SKIP_WINDOW,
    POLICY_WINDOW,
    POLICY_Z_ALPHA,
    POLICY_Z_EPS,
    POLICY_Z_THRESHOLD,
    POLICY_Z_WARMUP,
)

UNIT_NORM_FLOOR = tl.constexpr(1e-6)  # the least norm of a unit's gradient that AdaptiveGradientClip divides by
WINDOW_BLOCK = tl.constexpr(1024)  # the largest window of AutoClip and SkipSpikes
HARD_EPS = tl.constexpr(1e-6)  # added to a norm by torch.nn.utils.clip_grad_norm_


@triton.jit
def is_finite(value):
    """Neither infinite nor NaN."""
    return tl.abs(value) < float("inf")


@triton.jit
def is_remembered(norm):
    """Whether a policy remembers a norm: one of exactly 0 is that of a step without gradients."""
    return is_finite(norm) & (norm != 0)


@triton.jit
def at_most(value, bound):
    return tl.where(value > bound, bound, value)


@triton.jit
def at_least(value, bound):
    return tl.where(value < bound, bound, value)


@triton.jit
def clip_factor(norm, max_norm, smooth: tl.constexpr):
    """min(1, max_norm / (norm + 1e-6)), or 1 / (1 + norm / max_norm); a NaN norm gives NaN, as in torch."""
    if smooth:
        return tl.where(norm == 0, 1.0, 1.0 / (1.0 + norm / max_norm))
    else:
        return at_most(max_norm / (norm + HARD_EPS), 1.0)


@triton.jit
def unit_clip_factor(gradient_norm, weight_norm, clipping, eps):
    """min(1, clipping max(|W|, eps) / max(|G|, 1e-6)): Brock et al. 2021, arXiv 2102.06171, equation (3)."""
    return at_most(clipping * at_least(weight_norm, eps) / at_least(gradient_norm, UNIT_NORM_FLOOR), 1.0)


@triton.jit
def window_place(count, policy):
    """Where AutoClip puts the next norm."""
    return whole(count) % tl.load(policy + POLICY_WINDOW).to(tl.int64)


@triton.jit
def window_percentile(window, count, norm, policy):
    """AutoClip's percentile of the norms remembered and the new one, by linear interpolation between the two nearest
    ranks; -1 where nothing has ever been remembered.

    Args:
        window: pointer to float64 [window], a ring.
        count: norms remembered so far.
        norm: the new one.
        policy: the policy's numbers.
    """
    size = tl.load(policy + POLICY_WINDOW).to(tl.int32)
    counts = is_remembered(norm).to(tl.int32)
    place = window_place(count, policy).to(tl.int32)
    remembered = tl.minimum(whole(count) + counts, size).to(tl.int32)
    lanes = tl.arange(0, WINDOW_BLOCK)
    used = lanes < remembered
    own = tl.where(only_if(counts, lanes == place), norm, tl.load(window + lanes, used, 0.0))
    own = tl.where(own == own, own, float("inf"))  # a NaN has no rank
    smaller = tl.zeros_like(lanes)
    equal = tl.zeros_like(lanes)
    for other_place in range(remembered):
        other = tl.load(window + other_place)
        other = tl.where((counts != 0) & (other_place == place), norm, other)
        other = tl.where(other == other, other, float("inf"))
        smaller += (other < own).to(tl.int32)
        equal += (other == own).to(tl.int32)
    rank = tl.load(policy + POLICY_PERCENTILE) / 100.0 * (remembered - 1).to(tl.float64)
    below = tl.where(remembered > 0, rank, 0.0).to(tl.int32)
    above = tl.where(below + 1 < remembered, below + 1, below)
    is_below = used & (smaller <= below) & (below < smaller + equal)
    is_above = used & (smaller <= above) & (above < smaller + equal)
    low = tl.max(tl.where(is_below, own, 0.0), 0)
    high = tl.max(tl.where(is_above, own, 0.0), 0)
    return tl.where(remembered > 0, low + (rank - below.to(tl.float64)) * (high - low), -1.0)


@triton.jit
def factor_to(norm, bound):
    """What brings a norm down to ``bound``; one below it is left alone, and a NaN too."""
    return tl.where(norm > bound, bound / (norm + HARD_EPS), 1.0)


@triton.jit
def z_clip(norm, count, mean, variance, policy):
    """ZClip's bound on a norm, and its averages afterwards: Kumar et al. 2025, arXiv 2504.02507.

    During the warm-up the averages are those of all norms so far, by Welford's recurrence. A norm that is not
    remembered moves nothing.
    """
    max_norm = tl.load(policy + POLICY_LIMIT)
    alpha = tl.load(policy + POLICY_Z_ALPHA)
    threshold = tl.load(policy + POLICY_Z_THRESHOLD)
    warming = count < tl.load(policy + POLICY_Z_WARMUP)
    counts = is_remembered(norm)

    seen = count + 1.0
    delta = norm - mean
    early_mean = mean + delta / seen
    early_variance = (variance * count + delta * (norm - early_mean)) / seen

    deviation = tl.sqrt(variance)
    z = delta / (deviation + tl.load(policy + POLICY_Z_EPS))
    bound = tl.where(z > threshold, mean + threshold * threshold / z * deviation, norm)
    bound = at_most(bound, max_norm)
    late_mean = alpha * mean + (1.0 - alpha) * bound
    difference = bound - late_mean
    late_variance = alpha * variance + (1.0 - alpha) * (difference * difference)

    mean = tl.where(counts, tl.where(warming, early_mean, late_mean), mean)
    variance = tl.where(counts, tl.where(warming, early_variance, late_variance), variance)
    return tl.where(warming, max_norm, bound), tl.where(counts, seen, count), mean, variance


@triton.jit
def tensor_bound_factor(norm, joint, step, bound, policy):
    """AdaGC's factor of each tensor, and its bound afterwards: Wang et al. 2025, arXiv 2502.11034, Algorithm 1.

    Args:
        norm, bound: of the tensors; a bound of 0 is none yet.
        joint: the norm of all.
        step: the number of the step, from 1.
        policy: the policy's numbers.
    """
    beta = tl.load(policy + POLICY_Z_ALPHA)
    early = (tl.zeros_like(bound) + step < tl.load(policy + POLICY_Z_WARMUP)) | (bound == 0)
    known = tl.where(norm == 0, 1.0, norm)
    ratio = tl.where(early, tl.load(policy + POLICY_LIMIT), tl.load(policy + POLICY_RELATIVE_LIMIT) * bound)
    factor = tl.where(norm == 0, 1.0, at_most(ratio / tl.where(early, joint, known), 1.0))
    left = factor * norm
    smaller = tl.where(bound == 0, left, at_most(bound, left))
    new = tl.where(early, smaller, beta * bound + (1.0 - beta) * left)
    return factor, tl.where(is_finite(left) & (norm != 0), new, bound)


@triton.jit
def stands_out(value, values, count, policy):
    """Whether SkipSpikes finds that a value stands out from those before it, or is not finite.

    Args:
        value: of this step.
        values: pointer to float64 [window], a ring.
        count: values remembered so far.
        policy: the policy's numbers.
    """
    window = tl.load(policy + POLICY_SKIP_WINDOW)
    held = tl.minimum(count, window)
    lanes = tl.arange(0, WINDOW_BLOCK)
    used = lanes < held.to(tl.int32)
    own = tl.load(values + lanes, used, 0.0)
    mean = tl.sum(own, 0) / tl.where(held > 0, held, 1.0)
    difference = tl.where(used, own - mean, 0.0)
    deviation = tl.sqrt(tl.sum(difference * difference, 0) / tl.where(held > 1, held - 1.0, 1.0))
    half = (window.to(tl.int64) // 2).to(tl.float64)
    unjudged = (held < 2) | (held + 1.0 < half)
    spikes = (unjudged == 0) & (value - mean > tl.load(policy + POLICY_SKIP_SIGMA) * deviation)
    return spikes | (is_finite(value) == 0)


@triton.jit
def polyak_step(loss, square, f_star, c, eps):
    """max(loss - f_star, 0) / (c square + eps), the step of Polyak's rule; 0 for a loss that is not finite."""
    return tl.where(is_finite(loss), at_least(loss - f_star, 0.0) / (c * square + eps), 0.0)


@triton.jit
def polyak_factor(step, lr):
    """What the step makes of lr, which is the largest."""
    return tl.where(lr == 0, 1.0, at_most(step / tl.where(lr == 0, 1.0, lr), 1.0))


@triton.jit
def add_loss(b_squared, loss, alpha, c):
    """AdaLoss's b^2 after a loss: Wu et al. 2022, arXiv 2109.08282, Algorithm 1. One not finite leaves it as it was."""
    gap = tl.abs(loss - c)
    return tl.where(is_finite(gap), b_squared + alpha * gap, b_squared)
