"""Thresholds that have factors, which target_sparsity steers by the zeros that the last step has left."""

from __future__ import annotations

import triton
import triton.language as tl

from .operands import int32_at, int32_of, read_number, typed
from .sums import ONE_UNIT_LANES, int32s_at, integers_at, numbers_at
from .tables import (
    FLOAT64,
    GROUP_ELEMENTS,
    GROUP_LR,
    GROUP_LR_IS_DOUBLE,
    GROUP_TARGET,
    GROUP_THRESHOLD_SCALE,
    GROUP_WORDS,
    PLACE_GROUP_COUNT,
    PLACE_GROUPS,
    PLACE_NEXT_SCALES,
    PLACE_SHARED_ZEROS,
    PLACE_ZERO_BEGINS,
    PLACE_ZERO_RANGES,
    PLACE_ZERO_SETS,
    PLACE_ZEROS,
    ZERO_COUNT_ELEMENTS,
    ZERO_COUNT_WORDS,
    ZERO_RANGE_COUNT,
    ZERO_RANGE_FIRST,
    ZERO_RANGE_WORDS,
)

GAIN = tl.constexpr(0.25)
FASTEST = tl.constexpr(0.01)
LEAST = tl.constexpr(1e-6)
MOST = tl.constexpr(1e6)


@triton.jit
def steered_scale(scale, target, share):
    """csrc/steering.h."""
    move = tl.maximum(tl.minimum(GAIN * (target - share), FASTEST), -FASTEST)
    return tl.maximum(tl.minimum(scale * tl.exp(move), MOST), LEAST)


@triton.jit
def lr_of(places, group, mask):
    """lr of param groups: a number, or a tensor's."""
    numbers = numbers_at(places, PLACE_GROUPS) + group * GROUP_WORDS
    address = tl.load(integers_at(places, PLACE_GROUPS) + group * GROUP_WORDS + GROUP_LR, mask, 0)
    is_tensor = mask & (address != 0)
    given = read_number(address, int32_of(numbers, GROUP_LR_IS_DOUBLE, mask), is_tensor)
    return tl.where(is_tensor, given, tl.load(numbers, mask, 0.0))


@triton.jit
def zeros_of_group(places, group):
    """How many the last step has left in the parameters of a group, float64."""
    zeros = integers_at(places, PLACE_ZEROS)
    begins = int32s_at(places, PLACE_ZERO_BEGINS)
    lanes = tl.arange(0, ONE_UNIT_LANES)
    counts = tl.zeros([ONE_UNIT_LANES], tl.int64)
    for index in range(tl.load(begins + group), tl.load(begins + group + 1)):
        range_at = integers_at(places, PLACE_ZERO_RANGES) + index * ZERO_RANGE_WORDS
        first = tl.load(range_at + ZERO_RANGE_FIRST)
        count = tl.load(range_at + ZERO_RANGE_COUNT)
        for behind in range(0, count, ONE_UNIT_LANES):
            counts += tl.load(zeros + first + behind + lanes, behind + lanes < count, 0)
    return tl.sum(counts, 0).to(tl.float64)


@triton.jit
def shared_zeros(places, group):
    """Those that all processes have in a group, and the elements among which they are."""
    zeros = tl.full([], 0.0, tl.float64)
    elements = tl.full([], 0.0, tl.float64)
    for behind in range(int32_at(places, PLACE_ZERO_SETS)):
        cell = behind * int32_at(places, PLACE_GROUP_COUNT) + group
        at = numbers_at(places, PLACE_SHARED_ZEROS) + cell * ZERO_COUNT_WORDS
        zeros += tl.load(at)
        elements += tl.load(at + ZERO_COUNT_ELEMENTS)
    return zeros, elements


@triton.jit
def steer_thresholds(places, takes_step, shares: tl.constexpr):
    """The factor that each group's has in this step, which a step that is taken leaves behind; where its parameters
    cannot move, that of before.

    Args:
        places: the fields of FinishArguments.
        takes_step: int32, not 0 where the step is taken.
        shares: see ``Finish``.
    """
    next_scales = numbers_at(places, PLACE_NEXT_SCALES)
    for group in range(int32_at(places, PLACE_GROUP_COUNT)):
        words = group * GROUP_WORDS
        address = tl.load(integers_at(places, PLACE_GROUPS) + words + GROUP_THRESHOLD_SCALE)
        numbers = numbers_at(places, PLACE_GROUPS) + words
        elements = tl.load(numbers + GROUP_ELEMENTS)
        has_scale = address != 0
        held = tl.load(typed(address, FLOAT64), has_scale, 1.0)
        if shares:
            zeros, among = shared_zeros(places, group)
            elements = tl.where(elements > 0, among, 0.0)
        else:
            zeros = zeros_of_group(places, group)
        share = zeros / tl.maximum(elements, 1.0)
        moved = steered_scale(held, tl.load(numbers + GROUP_TARGET), share)
        can_move = (elements > 0) & (lr_of(places, group, has_scale) != 0)
        scale = tl.where(has_scale & can_move, moved, held)
        tl.debug_barrier()  # all have read
        tl.store(next_scales + group, scale)
        tl.store(typed(address, FLOAT64), scale, has_scale & (takes_step != 0))
    tl.debug_barrier()
