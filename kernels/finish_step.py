"""What one program decides at the end of the clip policy's norm pass, and before everything else where nothing is
measured: norms, clip factors, step size, whether there is a step, and with all that the coefficients."""

from __future__ import annotations

import triton
import triton.language as tl

from .clip_factors import (
    clipped_square,
    joint_square,
    look_for_spike,
    take_adaptive,
    take_bounds,
    take_groups,
    take_units,
)
from .finish_coefficients import (
    COEFFICIENTS_LANES,
    coefficients_at,
    hyperparameters,
    write_pipeline,
    write_rule,
)
from .numbers import (
    whole,
)
from .operands import (
    int32_at,
    int32_of,
)
from .policies import (
    add_loss,
    at_least,
    at_most,
    is_finite,
    polyak_factor,
    polyak_step,
)
from .steering import steer_thresholds
from .sums import (
    finish_long_rows,
    finish_shared_rows,
    int32s_at,
    numbers_at,
    policy_at,
)
from .tables import (
    BOUND_CLIP,
    COMMON_AGREED,
    COMMON_GRADIENTS,
    COMMON_LOST,
    DISAGREED,
    LOSS_STEP_SIZE,
    NO_CLIP,
    PERCENTILE_CLIP,
    PLACE_B_SQUARED,
    PLACE_CLIP_FACTOR,
    PLACE_COEFFICIENTS_COUNT,
    PLACE_COMMON,
    PLACE_COUNTERS,
    PLACE_LR_SCALE,
    PLACE_NUMBERS,
    PLACE_POLYAK_STEP,
    PLACE_SKIP_LOSS_COUNT,
    PLACE_SKIP_LOSSES,
    PLACE_SKIP_NORM_COUNT,
    PLACE_SKIP_NORMS,
    PLACE_SKIPPED,
    PLACE_STEP,
    POLICY_ALPHA,
    POLICY_B0,
    POLICY_C,
    POLICY_EMA_WARMUP,
    POLICY_GROWTH,
    POLICY_LOOKAHEAD_ALPHA,
    POLICY_LOOKAHEAD_K,
    POLICY_STEP_EPS,
    POLYAK_STEP_SIZE,
    SOURCE_CLIP_UNIT,
    SOURCE_GROUP,
    STEP_AVERAGE_WEIGHT,
    STEP_NUMBER,
    STEP_SKIPS,
    STEP_SYNCHRONISES,
    UNIT_CLIP,
    VALUE_CLIP_POLICY,
    Z_CLIP,
)


@triton.jit
def inverse_scale(grad_scale):
    """What undoes the scale of a GradScaler, float64; 1 without one."""
    if grad_scale is None:
        return tl.full([], 1.0, tl.float64)
    else:
        return 1.0 / tl.load(grad_scale).to(tl.float64)


@triton.jit
def is_idle(places):
    """Not 0 where no process has a gradient, int32; 0 where others were not asked by this exchange."""
    asked = tl.load(places + PLACE_COMMON) != 0
    return (tl.load(numbers_at(places, PLACE_COMMON) + COMMON_GRADIENTS, asked, 1.0) == 0).to(tl.int32)


@triton.jit
def disagrees(places):
    """Not 0 where the processes go by different things, or have in a step of which the hosts have not heard yet, int32;
    0 as of ``is_idle``. It is kept, so that the next steps know it, too."""
    asked = tl.load(places + PLACE_COMMON) != 0
    agreed = numbers_at(places, PLACE_COMMON) + COMMON_AGREED
    count = tl.load(agreed, asked, 0.0)
    total = tl.load(agreed + 1, asked, 0.0)
    squares = tl.load(agreed + 2, asked, 0.0)
    kept = numbers_at(places, PLACE_COUNTERS) + DISAGREED
    found = (tl.load(kept, asked, 0.0) != 0) | (count * squares != total * total)
    tl.store(kept, 1.0, found)
    return found.to(tl.int32)


@triton.jit
def take_step(places, loss, square, skips, idle, finish: tl.constexpr):
    """The number of the step and the step size; and, where the step is taken, the numbers that it leaves behind.

    Args:
        places: see ``finish_step``.
        loss: of the step, or None.
        square: of the joint norm after clipping, for PolyakStep.
        skips: int32, not 0 where the step is not taken.
        idle: int32, not 0 where it comes to nothing in any process, and is none.
        finish: what the kernel is compiled for.
    """
    policy = policy_at(places)
    step = tl.full([], 0.0, tl.float64)
    if finish.counts_steps:
        step = tl.load(numbers_at(places, PLACE_STEP)) + 1.0
    step_size = tl.full([], 1.0, tl.float64)
    if finish.step_size == POLYAK_STEP_SIZE:
        value = tl.load(loss).to(tl.float64)
        f_star = tl.load(policy + POLICY_C)
        step_size = polyak_step(
            value, square, f_star, tl.load(policy + POLICY_ALPHA), tl.load(policy + POLICY_STEP_EPS)
        )
        if finish.growth:
            place = numbers_at(places, PLACE_POLYAK_STEP)
            bound = tl.load(policy + POLICY_GROWTH) * tl.load(place)
            step_size = at_most(step_size, bound)
            tl.debug_barrier()  # all have read
            tl.store(place, step_size, (skips == 0) & is_finite(step_size) & is_finite(value))
    elif finish.step_size != 0:
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
    if finish.step_size == POLYAK_STEP_SIZE:  # reported is the first group's
        lr, _, _, _, _, _, _, _ = hyperparameters(places, tl.full([1], 0, tl.int32), tl.full([1], 1, tl.int1))
        tl.store(numbers_at(places, PLACE_LR_SCALE) + tl.arange(0, 1), polyak_factor(step_size, lr))
    elif finish.step_size != 0:
        tl.store(numbers_at(places, PLACE_LR_SCALE), step_size)
    synchronises = tl.full([], 0, tl.int32)
    if finish.lookahead:
        period = tl.load(policy + POLICY_LOOKAHEAD_K).to(tl.int64)
        synchronises = (whole(step) % period == 0).to(tl.int32)
    weight = tl.load(policy + POLICY_LOOKAHEAD_ALPHA)
    if finish.averages:
        warms = tl.load(policy + POLICY_EMA_WARMUP) != 0
        weight = tl.where(warms, at_least(weight, 9.0 / (10.0 + step)), weight)
    tl.store(numbers_at(places, PLACE_NUMBERS) + STEP_NUMBER, step)
    tl.store(numbers_at(places, PLACE_NUMBERS) + STEP_AVERAGE_WEIGHT, weight)
    skipped = tl.where(idle != 0, 0, skips).to(tl.float64)
    tl.store(numbers_at(places, PLACE_SKIPPED), skipped)
    counters = numbers_at(places, PLACE_COUNTERS)
    tl.store(counters + 2, tl.load(counters + 2) + 1.0 - idle.to(tl.float64))
    tl.store(counters + 3, tl.load(counters + 3) + skipped)
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
        loss: of a step size or SkipSpikes; None where neither asks for it.
        finish: what the kernel is compiled for, ``Finish``.
    """
    bounds: tl.constexpr = finish.clip == BOUND_CLIP
    polyak: tl.constexpr = finish.step_size == POLYAK_STEP_SIZE
    joint: tl.constexpr = bounds or polyak or finish.skip_norm
    measures: tl.constexpr = joint or (finish.clip != NO_CLIP and finish.clip != VALUE_CLIP_POLICY)
    skips = tl.full([], 0, tl.int32)
    if found_inf is not None:
        skips = (tl.load(found_inf) != 0).to(tl.int32)
    idle = tl.full([], 0, tl.int32)
    if finish.shares:
        idle = is_idle(places)
        skips = tl.maximum(tl.maximum(skips, idle), disagrees(places))
    clips = tl.full([], 0, tl.int32)
    square = tl.full([], 0.0, tl.float64)
    own = tl.full([], 0.0, tl.float64)
    if measures:
        if finish.clip == UNIT_CLIP:
            if finish.shares:
                finish_shared_rows(places, skips, True)
            else:
                finish_long_rows(places, skips, True)
        if joint:
            square, own = joint_square(places, finish)
        if finish.by_group:
            nonfinite, clips = take_groups(places, finish)
        else:
            nonfinite, clips = take_units(places, finish)
        if finish.shares and not finish.by_group:  # of a tensor that another process alone holds
            lost = (tl.load(numbers_at(places, PLACE_COMMON) + COMMON_LOST) != 0).to(tl.int32)
            nonfinite = tl.maximum(nonfinite, lost)
        if finish.skips_nonfinite:
            skips = tl.maximum(skips, nonfinite)
        tl.debug_barrier()
    looks = skips == 0
    if finish.skip_norm:
        found = look_for_spike(places, tl.sqrt(square), PLACE_SKIP_NORMS, PLACE_SKIP_NORM_COUNT, looks)
        skips = tl.maximum(skips, found)
    if finish.skip_loss:
        value = tl.load(loss).to(tl.float64)
        skips = tl.maximum(skips, look_for_spike(places, value, PLACE_SKIP_LOSSES, PLACE_SKIP_LOSS_COUNT, looks))
    if finish.clip == PERCENTILE_CLIP or finish.clip == Z_CLIP:
        clips = take_adaptive(places, skips == 0, finish)
    if bounds:
        clips = take_bounds(places, tl.sqrt(square), 1 - skips, finish)
    if polyak:
        tl.debug_barrier()
        square = clipped_square(places, own, finish)
    step, step_size = take_step(places, loss, square, skips, idle, finish)
    if measures:
        count_clips(places, clips, skips == 0)
    if finish.threshold_scales:
        steer_thresholds(places, 1 - skips, finish.shares)
    tl.debug_barrier()
    factors = numbers_at(places, PLACE_CLIP_FACTOR)
    for first in range(0, int32_at(places, PLACE_COEFFICIENTS_COUNT), COEFFICIENTS_LANES):
        coefficients, source, mask = coefficients_at(places, first)
        group = int32_of(source, SOURCE_GROUP, mask)
        h = hyperparameters(places, group, mask)
        lr, _, _, _, _, _, _, _ = h
        factor = tl.full(lr.shape, 1.0, tl.float64)
        if measures and finish.clip != UNIT_CLIP:
            unit = int32_of(source, SOURCE_CLIP_UNIT, mask)
            factor = tl.load(factors + unit, mask, 1.0)
        write_pipeline(
            places, coefficients, group, lr, step, inverse_scale(grad_scale), step_size, factor, finish, mask
        )
        none = tl.zeros_like(lr)
        write_rule(places, coefficients, source, h, (none, none, none + 1.0), 1 - skips, finish, mask)


# Those three are a caller's tensors, of any alignment.
@triton.jit(do_not_specialize_on_alignment=["grad_scale", "found_inf", "loss"])
def finish_step_kernel(places, grad_scale, found_inf, loss, finish: tl.constexpr):
    """``finish_step`` alone, before everything else where nothing is measured."""
    finish_step(places, grad_scale, found_inf, loss, finish)
