"""What this process has for an exchange with others, and the rows of which they have parts behind it.

An exchange is the last of a pass: its program for what no cell has sets the count of programs that are done back.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .operands import int32_at
from .policies import is_finite
from .sums import ONE_UNIT_LANES, finish_long_rows, int32s_at, integers_at, numbers_at, place_of_row, sum_range
from .tables import (
    COMMON_AGREED,
    COMMON_GRADIENTS,
    COMMON_LOSS,
    COMMON_LOST,
    COMMON_OVERFLOWS,
    LONG_ROW_FIRST_PARTIAL,
    LONG_ROW_PARTIALS,
    LONG_ROW_WORDS,
    PLACE_BLOCKS_DONE,
    PLACE_LONG_ROW_COUNT,
    PLACE_LONG_ROWS,
    PLACE_ROW_PARTIALS,
    PLACE_SHARED_ROWS,
    SHARE_CELLS,
    SHARE_GRADIENTS,
    SHARE_LOSS_SHARE,
    SHARE_NUMBER,
    SHARE_NUMBERS,
    SHARE_PARTIALS,
    SHARE_PLACES,
    SHARE_RANGE_BEGINS,
    SHARE_RANGES,
    SHARE_TENSORS,
    SHARE_ZERO_BEGINS,
    SHARE_ZERO_CELLS,
    SHARE_ZERO_ELEMENTS,
    SHARE_ZERO_RANGES,
    SHARE_ZEROS,
    SHARED_RANGE_COUNT,
    SHARED_RANGE_FIRST,
    SHARED_RANGE_SHARE,
    SHARED_RANGE_WORDS,
    SHARED_ROW_SHARE,
    SHARED_ROW_WORDS,
    STEP_SKIPS,
    SUM_DIRECTION,
    SUM_WORDS,
    UNIT_SUM_COUNT,
    UNIT_SUM_WORDS,
    ZERO_COUNT_ELEMENTS,
    ZERO_COUNT_WORDS,
)


@triton.jit
def first_place(share):
    """Where the places of rows begin among the numbers of an exchange: behind its cells."""
    return numbers_at(share, SHARE_NUMBERS) + tl.load(share + SHARE_CELLS) * UNIT_SUM_WORDS


@triton.jit
def share_rows_kernel(share, places, numbers, by_clip: tl.constexpr):
    """The rows of which others have parts, to their places; and those of which none has, as at the end of a pass.

    Args:
        share: int64, the fields of ShareArguments. Its numbers are 0.
        places: int64, the fields of FinishArguments or FinishRuleArguments.
        numbers: StepNumbers; None where there was no first finish.
        by_clip: for AdaptiveGradientClip; otherwise for AdaGradNorm.
    """
    skips = tl.full([], 0, tl.int32)
    if numbers is not None:
        skips = (int32_at(numbers, STEP_SKIPS) != 0).to(tl.int32)
    finish_long_rows(places, skips, by_clip, True)
    partials = numbers_at(places, PLACE_ROW_PARTIALS)
    long_rows = integers_at(places, PLACE_LONG_ROWS)
    sums = first_place(share)
    lanes = tl.arange(0, ONE_UNIT_LANES)
    for index in range(int32_at(places, PLACE_LONG_ROW_COUNT)):
        place = place_of_row(places, index)
        if place >= 0:
            part = tl.load(numbers_at(places, PLACE_SHARED_ROWS) + index * SHARED_ROW_WORDS + SHARED_ROW_SHARE)
            first = int32_at(long_rows + index * LONG_ROW_WORDS, LONG_ROW_FIRST_PARTIAL)
            count = int32_at(long_rows + index * LONG_ROW_WORDS, LONG_ROW_PARTIALS)
            gradient, other = sum_range(partials, first, count)
            tl.store(sums + place * SUM_WORDS, part * gradient)
            tl.store(sums + place * SUM_WORDS + SUM_DIRECTION, part * other)
            if by_clip:  # what is left of the row is known after the exchange
                tl.debug_barrier()  # all have read
                for behind in range(0, count, ONE_UNIT_LANES):
                    at = partials + (first + behind + lanes) * SUM_WORDS + SUM_DIRECTION
                    tl.store(at, tl.zeros([ONE_UNIT_LANES], tl.float64), behind + lanes < count)


@triton.jit
def zeros_of_cell(share, cell):
    """How many zeros the last step has left in a cell, float64."""
    zeros = integers_at(share, SHARE_ZEROS)
    begins = int32s_at(share, SHARE_ZERO_BEGINS)
    lanes = tl.arange(0, ONE_UNIT_LANES)
    total = tl.full([], 0.0, tl.float64)
    for index in range(tl.load(begins + cell), tl.load(begins + cell + 1)):
        at = integers_at(share, SHARE_ZERO_RANGES) + index * SHARED_RANGE_WORDS
        first = tl.load(at + SHARED_RANGE_FIRST)
        count = tl.load(at + SHARED_RANGE_COUNT)
        counts = tl.zeros([ONE_UNIT_LANES], tl.int64)
        for behind in range(0, count, ONE_UNIT_LANES):
            counts += tl.load(zeros + first + behind + lanes, behind + lanes < count, 0)
        part = tl.load(at.to(tl.pointer_type(tl.float64)) + SHARED_RANGE_SHARE)
        total += part * tl.sum(counts, 0).to(tl.float64)
    return total


# Both are a caller's tensors, of any alignment.
@triton.jit(do_not_specialize_on_alignment=["found_inf", "loss"])
def share_kernel(share, places, found_inf, loss, is_first: tl.constexpr):
    """The sums of a cell by each program, and by one behind them what no cell has.

    Args:
        share: int64, the fields of ShareArguments. Its numbers are 0, but for those of rows.
        places: int64, the fields of FinishArguments or FinishRuleArguments; None where there was no pass.
        found_inf: float32, a sum over devices; None without one.
        loss: of the step; None where others are not asked for theirs.
        is_first: of the step: what all processes have goes out once.
    """
    numbers = numbers_at(share, SHARE_NUMBERS)
    zero_cells = tl.load(share + SHARE_ZERO_CELLS)
    zeros = first_place(share) + tl.load(share + SHARE_PLACES) * SUM_WORDS
    common = zeros + zero_cells * ZERO_COUNT_WORDS
    cell = tl.program_id(0)
    if cell < tl.load(share + SHARE_CELLS):
        begins = int32s_at(share, SHARE_RANGE_BEGINS)
        gradient = tl.full([], 0.0, tl.float64)
        direction = tl.full([], 0.0, tl.float64)
        for index in range(tl.load(begins + cell), tl.load(begins + cell + 1)):
            at = integers_at(share, SHARE_RANGES) + index * SHARED_RANGE_WORDS
            first = tl.load(at + SHARED_RANGE_FIRST)
            own, other = sum_range(numbers_at(share, SHARE_PARTIALS), first, tl.load(at + SHARED_RANGE_COUNT))
            part = tl.load(at.to(tl.pointer_type(tl.float64)) + SHARED_RANGE_SHARE)
            gradient += part * own
            direction += part * other
        tensors = tl.load(int32s_at(share, SHARE_TENSORS) + cell)
        tl.store(numbers + cell * UNIT_SUM_WORDS, gradient)
        tl.store(numbers + cell * UNIT_SUM_WORDS + SUM_DIRECTION, direction)
        tl.store(numbers + cell * UNIT_SUM_WORDS + UNIT_SUM_COUNT, tensors.to(tl.float64))
        if is_first:  # every cell that finds one writes the same
            tl.store(common + COMMON_LOST, 1.0, is_finite(gradient) == 0)
    else:
        if is_first:
            for of_zeros in range(zero_cells):
                at = zeros + of_zeros * ZERO_COUNT_WORDS
                tl.store(at, zeros_of_cell(share, of_zeros))
                tl.store(at + ZERO_COUNT_ELEMENTS, tl.load(numbers_at(share, SHARE_ZERO_ELEMENTS) + of_zeros))
            if found_inf is not None:
                tl.store(common + COMMON_OVERFLOWS, (tl.load(found_inf) != 0).to(tl.float64))
            given = share.to(tl.pointer_type(tl.float64))
            tl.store(common + COMMON_GRADIENTS, tl.load(given + SHARE_GRADIENTS))
            if loss is not None:
                tl.store(common + COMMON_LOSS, tl.load(given + SHARE_LOSS_SHARE) * tl.load(loss).to(tl.float64))
            number = tl.load(given + SHARE_NUMBER)
            tl.store(common + COMMON_AGREED, 1.0)
            tl.store(common + COMMON_AGREED + 1, number)
            tl.store(common + COMMON_AGREED + 2, number * number)
        if places is not None:
            tl.store(int32s_at(places, PLACE_BLOCKS_DONE), 0)
