"""From the partial sums of a norm pass to one sum for each unit, by the program that finishes the pass."""

from __future__ import annotations

import triton
import triton.language as tl

from .momentum import ROW_EPS
from .operands import int32_at, read_number, write_number
from .policies import unit_clip_factor
from .tables import (
    LONG_ROW_FIRST_PARTIAL,
    LONG_ROW_PARTIALS,
    LONG_ROW_ROW,
    LONG_ROW_TENSOR,
    LONG_ROW_WORDS,
    PLACE_LONG_ROW_COUNT,
    PLACE_LONG_ROWS,
    PLACE_OF_SETS,
    PLACE_PARTIALS,
    PLACE_PLACE_SUMS,
    PLACE_PLACES,
    PLACE_POLICY,
    PLACE_ROW_FACTORS,
    PLACE_ROW_PARTIALS,
    PLACE_SHARED_ROW_COUNT,
    PLACE_SHARED_ROWS,
    PLACE_TENSORS,
    PLACE_UNIT_CHUNKS,
    PLACE_UNITS,
    POLICY_LIMIT,
    POLICY_UNIT_EPS,
    SHARED_ROW_PLACE,
    SHARED_ROW_WORDS,
    SUM_DIRECTION,
    SUM_WORDS,
    TENSOR_FIRST_ROW,
    TENSOR_SUM_IS_DOUBLE,
    TENSOR_SUMS,
    TENSOR_WORDS,
    UNIT_SUM_COUNT,
    UNIT_SUM_WORDS,
)

UNIT_LANES = tl.constexpr(32)  # units at a time
PARTIAL_LANES = tl.constexpr(32)  # partial sums of each at a time
ONE_UNIT_LANES = tl.constexpr(1024)  # where there is one unit


@triton.jit
def numbers_at(places, place: tl.constexpr):
    """A pointer to the float64 numbers whose address stands there."""
    return tl.load(places + place).to(tl.pointer_type(tl.float64))


@triton.jit
def integers_at(places, place: tl.constexpr):
    """A pointer to the int64 numbers whose address stands there."""
    return tl.load(places + place).to(tl.pointer_type(tl.int64))


@triton.jit
def int32s_at(places, place: tl.constexpr):
    """A pointer to the int32 numbers whose address stands there."""
    return tl.load(places + place).to(tl.pointer_type(tl.int32))


@triton.jit
def policy_at(places):
    """A pointer to the policy's numbers, which are among the places."""
    return (places + PLACE_POLICY).to(tl.pointer_type(tl.float64))


@triton.jit
def sum_range(partials, first, count):
    """The two sums over ``count`` partial sums from number ``first`` on, always added in the same order."""
    lanes = tl.arange(0, ONE_UNIT_LANES)
    gradient = tl.zeros([ONE_UNIT_LANES], tl.float64)
    direction = tl.zeros([ONE_UNIT_LANES], tl.float64)
    for behind in range(0, count, ONE_UNIT_LANES):
        inside = behind + lanes < count
        place = partials + (first + behind + lanes) * SUM_WORDS
        gradient += tl.load(place, inside, 0.0)
        direction += tl.load(place + SUM_DIRECTION, inside, 0.0)
    return tl.sum(gradient, 0), tl.sum(direction, 0)


@triton.jit
def sum_chunks(places, unit, exists, is_single: tl.constexpr):
    """The two sums of units over their chunks, and whether one has none."""
    partials = numbers_at(places, PLACE_PARTIALS)
    begins = int32s_at(places, PLACE_UNIT_CHUNKS)
    first = tl.load(begins + unit, exists, 0).to(tl.int64)
    count = tl.load(begins + unit + 1, exists, 0) - first
    if is_single:
        begin = tl.load(begins).to(tl.int64)
        gradient_sum, direction_sum = sum_range(partials, begin, tl.load(begins + 1) - begin)
        gradient = tl.zeros([1], tl.float64) + gradient_sum
        direction = tl.zeros([1], tl.float64) + direction_sum
    else:
        lanes = tl.arange(0, PARTIAL_LANES)
        gradients = tl.zeros([UNIT_LANES, PARTIAL_LANES], tl.float64)
        directions = tl.zeros([UNIT_LANES, PARTIAL_LANES], tl.float64)
        for behind in range(0, tl.max(count, 0), PARTIAL_LANES):
            place = partials + (first[:, None] + (behind + lanes)[None, :]) * SUM_WORDS
            inside = (behind + lanes)[None, :] < count[:, None]
            gradients += tl.load(place, inside, 0.0)
            directions += tl.load(place + SUM_DIRECTION, inside, 0.0)
        gradient = tl.sum(gradients, 1)
        direction = tl.sum(directions, 1)
    return gradient, direction, count == 0


@triton.jit
def sum_units(places, first_unit, is_single: tl.constexpr, shares: tl.constexpr):
    """The units from ``first_unit`` on, as a block: which there are, their two sums, and whether one is empty.

    ``shares``: see ``Finish``.
    """
    unit = first_unit + tl.arange(0, 1 if is_single else UNIT_LANES)
    exists = unit < int32_at(places, PLACE_UNITS)
    if shares:
        sums = numbers_at(places, PLACE_OF_SETS) + unit * UNIT_SUM_WORDS
        gradient = tl.load(sums, exists, 0.0)
        direction = tl.load(sums + SUM_DIRECTION, exists, 0.0)
        is_empty = tl.load(sums + UNIT_SUM_COUNT, exists, 0.0) == 0
    else:
        gradient, direction, is_empty = sum_chunks(places, unit, exists, is_single)
    return unit, exists, gradient, direction, is_empty


@triton.jit
def clip_row(policy, gradient, weight):
    """AdaptiveGradientClip's factor of one row, and what its gradients' squares sum to afterwards."""
    limit = tl.load(policy + POLICY_LIMIT)
    factor = unit_clip_factor(tl.sqrt(gradient), tl.sqrt(weight), limit, tl.load(policy + POLICY_UNIT_EPS))
    return factor, factor * factor * gradient


@triton.jit
def step_row(tensor, row, gradient, skips):
    """AdaGradNorm's step size of one row; the sum of its squared norms moves on unless the step is skipped.

    Below two dimensions, where the update keeps sums of the elements, it is 1.
    """
    address = tl.load(tensor + TENSOR_SUMS)
    has_sums = address != 0
    is_double = int32_at(tensor, TENSOR_SUM_IS_DOUBLE)
    place = address + row * tl.where(is_double != 0, 8, 4)
    total = read_number(place, is_double, has_sums) + gradient
    write_number(place, is_double, total, has_sums & (skips == 0))
    return tl.where(has_sums, 1.0 / (tl.sqrt(total) + ROW_EPS), 1.0)


@triton.jit
def finish_long_row(places, long_row, partials, skips, by_clip: tl.constexpr):
    """One of them."""
    lanes = tl.arange(0, ONE_UNIT_LANES)
    tensor = integers_at(places, PLACE_TENSORS) + int32_at(long_row, LONG_ROW_TENSOR) * TENSOR_WORDS
    row = tl.load(long_row + LONG_ROW_ROW)
    first = int32_at(long_row, LONG_ROW_FIRST_PARTIAL)
    count = int32_at(long_row, LONG_ROW_PARTIALS)
    gradient, other = sum_range(partials, first, count)
    if by_clip:
        factor, direction = clip_row(policy_at(places), gradient, other)
        tl.debug_barrier()  # all have read
        for behind in range(0, count, ONE_UNIT_LANES):
            place = partials + (first + behind + lanes) * SUM_WORDS + SUM_DIRECTION
            tl.store(place, tl.where(behind + lanes == 0, direction, 0.0), behind + lanes < count)
    else:
        factor = step_row(tensor, row, gradient, skips)
    tl.store(numbers_at(places, PLACE_ROW_FACTORS) + tl.load(tensor + TENSOR_FIRST_ROW) + row, factor)


@triton.jit
def finish_long_rows(places, skips, by_clip: tl.constexpr, shares: tl.constexpr = False):
    """The factors of the rows that several chunks share. The parts' sums are left such that those over all parts are
    the row's.

    Args:
        places: the fields of FinishArguments or FinishRuleArguments.
        skips: the step is not taken.
        by_clip: for AdaptiveGradientClip; otherwise for AdaGradNorm.
        shares: without those of which other processes have parts.
    """
    partials = numbers_at(places, PLACE_ROW_PARTIALS)
    long_rows = integers_at(places, PLACE_LONG_ROWS)
    for index in range(int32_at(places, PLACE_LONG_ROW_COUNT)):
        if shares:
            if place_of_row(places, index) < 0:
                finish_long_row(places, long_rows + index * LONG_ROW_WORDS, partials, skips, by_clip)
        else:
            finish_long_row(places, long_rows + index * LONG_ROW_WORDS, partials, skips, by_clip)
    tl.debug_barrier()


@triton.jit
def place_of_row(places, index):
    """That of a long row among those that are sent; -1 where no other process has a part of it."""
    shared = tl.load(places + PLACE_SHARED_ROWS)
    at = shared.to(tl.pointer_type(tl.int64)) + index * SHARED_ROW_WORDS + SHARED_ROW_PLACE
    return tl.load(at, shared != 0, -1)


@triton.jit
def finish_shared_rows(places, skips, by_clip: tl.constexpr):
    """The factors of the rows of which other processes have parts, by the sums of all. What is left of them by a policy
    is added to the only unit. The arguments are those of ``finish_long_rows``."""
    sums = numbers_at(places, PLACE_PLACE_SUMS)
    lanes = tl.arange(0, ONE_UNIT_LANES)
    for index in range(int32_at(places, PLACE_SHARED_ROW_COUNT)):
        at = place_of_row(places, index)
        if at >= 0:
            long_row = integers_at(places, PLACE_LONG_ROWS) + index * LONG_ROW_WORDS
            tensor = integers_at(places, PLACE_TENSORS) + int32_at(long_row, LONG_ROW_TENSOR) * TENSOR_WORDS
            row = tl.load(long_row + LONG_ROW_ROW)
            gradient = tl.load(sums + at * SUM_WORDS)
            if by_clip:
                weight = tl.load(sums + at * SUM_WORDS + SUM_DIRECTION)
                factor, _ = clip_row(policy_at(places), gradient, weight)
            else:
                factor = step_row(tensor, row, gradient, skips)
            tl.store(numbers_at(places, PLACE_ROW_FACTORS) + tl.load(tensor + TENSOR_FIRST_ROW) + row, factor)
    if by_clip:
        left = tl.zeros([ONE_UNIT_LANES], tl.float64)
        count = tl.load(places + PLACE_PLACES)
        for behind in range(0, count, ONE_UNIT_LANES):
            inside = behind + lanes < count
            gradient = tl.load(sums + (behind + lanes) * SUM_WORDS, inside, 0.0)
            weight = tl.load(sums + (behind + lanes) * SUM_WORDS + SUM_DIRECTION, inside, 0.0)
            _, direction = clip_row(policy_at(places), gradient, weight)
            left += tl.where(inside, direction, 0.0)
        cell = numbers_at(places, PLACE_OF_SETS) + SUM_DIRECTION
        total = tl.load(cell) + tl.sum(left, 0)
        tl.debug_barrier()  # all have read
        tl.store(cell, total)
    tl.debug_barrier()
