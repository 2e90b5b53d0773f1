"""What one program decides at the end of the clip policy's norm pass, and before everything else where nothing is
measured: norms, clip factors, step size, whether there is a step, and with all that the rows of coefficients."""

from __future__ import annotations

import triton
import triton.language as tl

from .finish_rows import ROW_LANES, hyperparameters, rows_at, write_pipeline, write_rule
from .numbers import whole
from .operands import int32_at, int32_of
from .policies import add_loss, clip_factor, factor_to, is_finite, window_percentile, window_place, z_clip
from .sums import UNIT_LANES, finish_long_rows, int32s_at, numbers_at, policy_at, sum_units
from .tables import (
    GROUP_CLIP_LIMIT,
    GROUP_CLIP_NONFINITE,
    GROUP_CLIP_SMOOTH,
    GROUP_CLIP_UNIT,
    GROUP_CLIP_WORDS,
    LOSS_STEP_SIZE,
    NO_CLIP,
    NORM_CLIP,
    PERCENTILE_CLIP,
    PLACE_B_SQUARED,
    PLACE_CLIP_FACTOR,
    PLACE_COUNTERS,
    PLACE_GRAD_NORM,
    PLACE_GROUP_CLIPS,
    PLACE_LR_SCALE,
    PLACE_NORM_COUNT,
    PLACE_NORM_MEAN,
    PLACE_NORM_VARIANCE,
    PLACE_NORM_WINDOW,
    PLACE_NUMBERS,
    PLACE_ROW_COUNT,
    PLACE_STEP,
    PLACE_UNITS,
    POLICY_ALPHA,
    POLICY_B0,
    POLICY_C,
    POLICY_LIMIT,
    POLICY_LOOKAHEAD_K,
    SOURCE_CLIP_UNIT,
    SOURCE_GROUP,
    STEP_NUMBER,
    STEP_SKIPS,
    STEP_SYNCHRONISES,
    UNIT_CLIP,
    VALUE_CLIP_POLICY,
    Z_CLIP,
)

NO_SUM = tl.constexpr(-1.0)  # in place of the sum of a group without gradients


@triton.jit
def inverse_scale(grad_scale):
    """What undoes the scale of a GradScaler, float64; 1 without one."""
    if grad_scale is None:
        return tl.full([], 1.0, tl.float64)
    else:
        return 1.0 / tl.load(grad_scale).to(tl.float64)


@triton.jit
def take_units(places, finish: tl.constexpr):
    """Norm and factor of every unit. Returns whether a norm that counts is not finite, and whether a factor is below 1.
    The factor of a policy that remembers norms comes later."""
    norms = numbers_at(places, PLACE_GRAD_NORM)
    factors = numbers_at(places, PLACE_CLIP_FACTOR)
    limit = tl.load(policy_at(places) + POLICY_LIMIT)
    nonfinite = 0
    clips = 0
    for first in range(0, int32_at(places, PLACE_UNITS), 1 if finish.is_single else UNIT_LANES):
        unit, exists, gradient, direction, is_empty = sum_units(places, first, finish.is_single)
        norm = tl.where(is_empty, 0.0, tl.sqrt(gradient))
        factor = tl.full(norm.shape, 1.0, tl.float64)
        if finish.clip == NORM_CLIP:
            factor = tl.where(is_empty, 1.0, clip_factor(norm, limit, finish.smooth))
        if finish.clip == UNIT_CLIP:
            factor = tl.where(norm != 0, tl.sqrt(direction) / norm, 1.0)
        tl.store(norms + unit, norm, exists)
        tl.store(factors + unit, factor, exists)
        nonfinite = tl.maximum(nonfinite, tl.max((exists & (is_finite(norm) == 0)).to(tl.int32), 0))
        clips = tl.maximum(clips, tl.max((exists & (factor < 1)).to(tl.int32), 0))
    return nonfinite, clips


@triton.jit
def take_groups(places, finish: tl.constexpr):
    """Norm and factor of every param group, where groups have policies of their own: the sums of those in one norm are
    added in their order. Returns as ``take_units``."""
    norms = numbers_at(places, PLACE_GRAD_NORM)
    factors = numbers_at(places, PLACE_CLIP_FACTOR)
    clips = numbers_at(places, PLACE_GROUP_CLIPS)
    count = int32_at(places, PLACE_UNITS)
    lanes: tl.constexpr = 1 if finish.is_single else UNIT_LANES
    for first in range(0, count, lanes):
        group, exists, gradient, _, is_empty = sum_units(places, first, finish.is_single)
        tl.store(factors + group, tl.where(is_empty, NO_SUM, gradient), exists)
    tl.debug_barrier()
    for first in range(0, count, lanes):
        group = first + tl.arange(0, lanes)
        own = int32_of(clips + group * GROUP_CLIP_WORDS, GROUP_CLIP_UNIT, group < count)
        own = tl.where(group < count, own, -1)
        total = tl.full([lanes], NO_SUM, tl.float64)
        for other in range(count):
            added = tl.zeros([lanes], tl.float64) + tl.load(factors + other)
            joins = (int32_at(clips + other * GROUP_CLIP_WORDS, GROUP_CLIP_UNIT) == own) & (own >= 0)
            joined = tl.where(total == NO_SUM, added, total + added)
            total = tl.where(joins & (added != NO_SUM), joined, total)
        tl.store(norms + group, total, group < count)
    tl.debug_barrier()  # all have read the sums, which the factors replace
    nonfinite = 0
    is_clipped = 0
    for first in range(0, count, lanes):
        group = first + tl.arange(0, lanes)
        exists = group < count
        clip = clips + group * GROUP_CLIP_WORDS
        total = tl.load(norms + group, exists, NO_SUM)
        is_empty = total == NO_SUM
        norm = tl.where(is_empty, 0.0, tl.sqrt(tl.where(is_empty, 0.0, total)))
        limit = tl.load(clip + GROUP_CLIP_LIMIT, exists, 1.0)
        smooth = int32_of(clip, GROUP_CLIP_SMOOTH, exists) != 0
        factor = tl.where(smooth, clip_factor(norm, limit, True), clip_factor(norm, limit, False))
        factor = tl.where(is_empty, 1.0, factor)
        refuses = int32_of(clip, GROUP_CLIP_NONFINITE, exists) != 0
        tl.debug_barrier()
        tl.store(norms + group, norm, exists)
        tl.store(factors + group, factor, exists)
        nonfinite = tl.maximum(nonfinite, tl.max((exists & refuses & (is_finite(norm) == 0)).to(tl.int32), 0))
        is_clipped = tl.maximum(is_clipped, tl.max((exists & (factor < 1)).to(tl.int32), 0))
    return nonfinite, is_clipped


@triton.jit
def take_adaptive(places, takes_step, finish: tl.constexpr):
    """The factor of a policy that takes one norm over all parameters and remembers it, and, where the step is taken,
    what it remembers. Returns whether the factor is below 1."""
    policy = policy_at(places)
    norm = tl.load(numbers_at(places, PLACE_GRAD_NORM))
    count_place = numbers_at(places, PLACE_NORM_COUNT)
    count = tl.load(count_place)
    if finish.clip == PERCENTILE_CLIP:
        window = numbers_at(places, PLACE_NORM_WINDOW)
        percentile = window_percentile(window, count, norm, policy)
        factor = tl.where(percentile >= 0, clip_factor(norm, percentile, False), 1.0)
        remembers = takes_step & is_finite(norm)
        tl.debug_barrier()  # all have read
        tl.store(window + window_place(count, policy), norm, remembers)
        tl.store(count_place, whole(count).to(tl.float64) + 1.0, remembers)
    else:
        mean_place = numbers_at(places, PLACE_NORM_MEAN)
        variance_place = numbers_at(places, PLACE_NORM_VARIANCE)
        bound, new_count, mean, variance = z_clip(norm, count, tl.load(mean_place), tl.load(variance_place), policy)
        factor = factor_to(norm, bound)
        tl.store(count_place, new_count, takes_step)
        tl.store(mean_place, mean, takes_step)
        tl.store(variance_place, variance, takes_step)
    tl.store(numbers_at(places, PLACE_CLIP_FACTOR), factor)
    return (factor < 1).to(tl.int32)


@triton.jit
def take_step(places, loss, skips, finish: tl.constexpr):
    """The number of the step and the step size; and, where the step is taken, the numbers that it leaves behind."""
    policy = policy_at(places)
    step = tl.full([], 0.0, tl.float64)
    if finish.counts_steps:
        step = tl.load(numbers_at(places, PLACE_STEP)) + 1.0
    step_size = tl.full([], 1.0, tl.float64)
    if finish.step_size != 0:
        alpha = tl.load(policy + POLICY_ALPHA)
        if finish.step_size == LOSS_STEP_SIZE:
            b_squared = tl.load(numbers_at(places, PLACE_B_SQUARED))
            b_squared = add_loss(b_squared, tl.load(loss).to(tl.float64), alpha, tl.load(policy + POLICY_C))
        else:
            b0 = tl.load(policy + POLICY_B0)
            b_squared = b0 * b0 + alpha * step
        step_size = 1.0 / tl.sqrt(b_squared)
    tl.debug_barrier()  # every thread has read what one of them writes now
    if finish.counts_steps:
        tl.store(numbers_at(places, PLACE_STEP), step, skips == 0)
    if finish.step_size == LOSS_STEP_SIZE:
        tl.store(numbers_at(places, PLACE_B_SQUARED), b_squared, skips == 0)
    if finish.step_size != 0:
        tl.store(numbers_at(places, PLACE_LR_SCALE), step_size)
    synchronises = tl.full([], 0, tl.int32)
    if finish.lookahead:
        period = tl.load(policy + POLICY_LOOKAHEAD_K).to(tl.int64)
        synchronises = (whole(step) % period == 0).to(tl.int32)
    tl.store(numbers_at(places, PLACE_NUMBERS) + STEP_NUMBER, step)
    decided = int32s_at(places, PLACE_NUMBERS)
    tl.store(decided + STEP_SKIPS, skips)
    tl.store(decided + STEP_SYNCHRONISES, synchronises)
    return step, step_size


@triton.jit
def count_clips(places, clips, mask):
    """The steps taken that measured a factor, and those of them in which one was below 1."""
    counters = numbers_at(places, PLACE_COUNTERS)
    tl.store(counters, tl.load(counters) + 1.0, mask)
    tl.store(counters + 1, tl.load(counters + 1) + clips.to(tl.float64), mask)


@triton.jit
def finish_step(places, grad_scale, found_inf, loss, finish: tl.constexpr):
    """All of it, by one program.

    Args:
        places: int64, the fields of FinishArguments.
        grad_scale: float32, of a GradScaler; None without one.
        found_inf: float32, a sum over devices; None without one.
        loss: of AdaLossStep; None without it.
        finish: what the kernel is compiled for, ``Finish``.
    """
    measures: tl.constexpr = finish.clip != NO_CLIP and finish.clip != VALUE_CLIP_POLICY
    skips = tl.full([], 0, tl.int32)
    if found_inf is not None:
        skips = (tl.load(found_inf) != 0).to(tl.int32)
    clips = tl.full([], 0, tl.int32)
    if measures:
        if finish.clip == UNIT_CLIP:
            finish_long_rows(places, skips, True)
        if finish.by_group:
            nonfinite, clips = take_groups(places, finish)
        else:
            nonfinite, clips = take_units(places, finish)
        if finish.skips_nonfinite:
            skips = tl.maximum(skips, nonfinite)
        tl.debug_barrier()
        if finish.clip == PERCENTILE_CLIP or finish.clip == Z_CLIP:
            clips = take_adaptive(places, skips == 0, finish)
    step, step_size = take_step(places, loss, skips, finish)
    if measures:
        count_clips(places, clips, skips == 0)
    tl.debug_barrier()
    factors = numbers_at(places, PLACE_CLIP_FACTOR)
    for first in range(0, int32_at(places, PLACE_ROW_COUNT), ROW_LANES):
        row, source, mask = rows_at(places, first)
        group = int32_of(source, SOURCE_GROUP, mask)
        h = hyperparameters(places, group, mask)
        lr, _, _, _, _, _, _, _ = h
        factor = tl.full(lr.shape, 1.0, tl.float64)
        if measures and finish.clip != UNIT_CLIP:
            unit = int32_of(source, SOURCE_CLIP_UNIT, mask)
            factor = tl.load(factors + unit, mask, 1.0)
        write_pipeline(places, row, group, lr, step, inverse_scale(grad_scale), step_size, factor, finish, mask)
        none = tl.zeros_like(lr)
        write_rule(places, row, source, h, (none, none, none + 1.0), 1 - skips, finish, mask)


# Those three are a caller's tensors, of any alignment.
@triton.jit(do_not_specialize_on_alignment=["grad_scale", "found_inf", "loss"])
def finish_step_kernel(places, grad_scale, found_inf, loss, finish: tl.constexpr):
    """``finish_step`` alone, before everything else where nothing is measured."""
    finish_step(places, grad_scale, found_inf, loss, finish)
