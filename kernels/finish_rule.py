"""What one program makes of the norms that a rule takes itself: its coefficients."""

from __future__ import annotations

import triton
import triton.language as tl

from .finish_coefficients import COEFFICIENTS_LANES, coefficients_at, hyperparameters, write_pipeline, write_rule
from .finish_step import count_clips, disagrees, is_idle
from .operands import int32_at, int32_of, only_if, read_number, write_number
from .rules import direction_factor
from .sums import UNIT_LANES, finish_long_rows, finish_shared_rows, int32s_at, integers_at, numbers_at, sum_units
from .tables import (
    PLACE_CLIP_FACTOR,
    PLACE_COEFFICIENTS_COUNT,
    PLACE_DECIDED,
    PLACE_DIRECTION_NORM,
    PLACE_GRAD_NORM,
    PLACE_RULE_SUMS,
    PLACE_SUM_IS_DOUBLE,
    PLACE_UNITS,
    SOURCE_GROUP,
    SOURCE_RULE_UNIT,
    SOURCE_WORDS,
    STEP_SKIPS,
)


@triton.jit
def take_norms(places, takes_step, by_rows: tl.constexpr, finish: tl.constexpr):
    """The norms of every unit. A rule that sums them has their root as the clip factor already, and one with a single
    unit that of the first group's hyperparameters; of others it comes with the coefficients. Returns whether one is
    below 1."""
    norms = numbers_at(places, PLACE_GRAD_NORM)
    directions = numbers_at(places, PLACE_DIRECTION_NORM)
    factors = numbers_at(places, PLACE_CLIP_FACTOR)
    clips = 0
    for first in range(0, int32_at(places, PLACE_UNITS), 1 if finish.is_single else UNIT_LANES):
        unit, exists, gradient, direction, _ = sum_units(places, first, finish.is_single, finish.shares)
        root_factor = tl.full(gradient.shape, 1.0, tl.float64)
        if finish.sums_units:
            place = tl.load(integers_at(places, PLACE_RULE_SUMS) + unit, exists, 0)
            is_double = tl.load(int32s_at(places, PLACE_SUM_IS_DOUBLE) + unit, exists, 0)
            has_sum = exists & (place != 0)
            total = read_number(place, is_double, has_sum) + gradient
            write_number(place, is_double, total, only_if(takes_step, has_sum))
            root_factor = tl.where(has_sum, 1.0 / tl.sqrt(total), 1.0)
        factor = root_factor
        if finish.is_single and not by_rows:
            h = hyperparameters(places, tl.zeros_like(unit), exists)
            factor = direction_factor(finish, h, (tl.sqrt(gradient), tl.sqrt(direction), root_factor))
        tl.store(norms + unit, tl.sqrt(gradient), exists)
        tl.store(directions + unit, tl.sqrt(direction), exists)
        tl.store(factors + unit, factor, exists)
        clips = tl.maximum(clips, tl.max((exists & (factor < 1)).to(tl.int32), 0))
    return clips


@triton.jit
def finish_rule(places, numbers, by_rows: tl.constexpr, finish: tl.constexpr):
    """All of it, by one program.

    Args:
        places: int64, the fields of FinishArguments or FinishRuleArguments.
        numbers: StepNumbers; None where there was no first finish, and this makes the coefficients.
        by_rows: the norms are kept apart by rows.
        finish: what the kernel is compiled for, ``Finish``.
    """
    skips = tl.full([], 0, tl.int32)
    if numbers is not None:
        skips = (int32_at(numbers, STEP_SKIPS) != 0).to(tl.int32)
    elif finish.shares:
        skips = is_idle(places)
    if finish.shares:
        skips = tl.maximum(skips, disagrees(places))
        tl.debug_barrier()  # all have read what is written now
        tl.store(int32s_at(places, PLACE_DECIDED) + STEP_SKIPS, skips)
    if by_rows:
        if finish.shares:
            finish_shared_rows(places, skips, False)
        else:
            finish_long_rows(places, skips, False)
    clips = take_norms(places, 1 - skips, by_rows, finish)
    tl.debug_barrier()
    norms = numbers_at(places, PLACE_GRAD_NORM)
    directions = numbers_at(places, PLACE_DIRECTION_NORM)
    factors = numbers_at(places, PLACE_CLIP_FACTOR)
    for first in range(0, int32_at(places, PLACE_COEFFICIENTS_COUNT), COEFFICIENTS_LANES):
        coefficients, source, mask = coefficients_at(places, first)
        group = int32_of(source, SOURCE_GROUP, mask)
        unit = int32_of(source, SOURCE_RULE_UNIT, mask)
        h = hyperparameters(places, group, mask)
        lr, _, _, _, _, _, _, _ = h
        one = tl.full(lr.shape, 1.0, tl.float64)
        if numbers is None:
            write_pipeline(places, coefficients, group, lr, one, one, one, one, finish, mask)
        root_factor = one
        if finish.sums_units:
            root_factor = tl.load(factors + unit, mask, 1.0)
        measured = (tl.load(norms + unit, mask, 0.0), tl.load(directions + unit, mask, 0.0), root_factor)
        write_rule(places, coefficients, source, h, measured, 1 - skips, finish, mask)
        if not finish.is_single and not finish.sums_units and not by_rows:
            # The factor of a unit is that of the first of its sets.
            has_before = mask & (first + tl.arange(0, COEFFICIENTS_LANES) > 0)
            before = tl.where(has_before, int32_of(source - SOURCE_WORDS, SOURCE_RULE_UNIT, has_before), -1)
            factor = direction_factor(finish, h, measured)
            tl.store(factors + unit, factor, mask & (before != unit))
            clips = tl.maximum(clips, tl.max((mask & (before != unit) & (factor < 1)).to(tl.int32), 0))
    if finish.counts_clips:
        count_clips(places, clips, skips == 0)


@triton.jit
def finish_rule_kernel(places, numbers, by_rows: tl.constexpr, finish: tl.constexpr):
    """``finish_rule`` alone, where no tensor has an element."""
    finish_rule(places, numbers, by_rows, finish)
