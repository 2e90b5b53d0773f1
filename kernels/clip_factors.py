"""From the sums of a norm pass to norms, and from norms to the factors of clip policies and to what skips a step."""

from __future__ import annotations

import triton
import triton.language as tl

from .numbers import (
    whole,
)
from .operands import (
    int32_at,
    int32_of,
    only_if,
)
from .policies import (
    clip_factor,
    factor_to,
    is_finite,
    is_remembered,
    stands_out,
    tensor_bound_factor,
    window_percentile,
    window_place,
    z_clip,
)
from .sums import (
    UNIT_LANES,
    numbers_at,
    policy_at,
    sum_units,
)
from .tables import (
    GROUP_CLIP_LIMIT,
    GROUP_CLIP_NONFINITE,
    GROUP_CLIP_SMOOTH,
    GROUP_CLIP_UNIT,
    GROUP_CLIP_WORDS,
    NORM_CLIP,
    PERCENTILE_CLIP,
    PLACE_CLIP_FACTOR,
    PLACE_GRAD_NORM,
    PLACE_GROUP_CLIPS,
    PLACE_NORM_BOUNDS,
    PLACE_NORM_COUNT,
    PLACE_NORM_MEAN,
    PLACE_NORM_VARIANCE,
    PLACE_NORM_WINDOW,
    PLACE_UNITS,
    POLICY_LIMIT,
    POLICY_SKIP_WINDOW,
    UNIT_CLIP,
)

NO_SUM = tl.constexpr(-1.0)  # in place of the sum of a group without gradients


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
        unit, exists, gradient, direction, is_empty = sum_units(places, first, finish.is_single, finish.shares)
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
        group, exists, gradient, _, is_empty = sum_units(places, first, finish.is_single, finish.shares)
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
def joint_square(places, finish: tl.constexpr):
    """The square of the norm of all gradients, and that of groups which no policy measures: behind ``take_units``, or
    before ``take_groups``."""
    total = tl.full([], 0.0, tl.float64)
    own = tl.full([], 0.0, tl.float64)
    clips = numbers_at(places, PLACE_GROUP_CLIPS)
    for first in range(0, int32_at(places, PLACE_UNITS), 1 if finish.is_single else UNIT_LANES):
        unit, exists, gradient, _, is_empty = sum_units(places, first, finish.is_single, finish.shares)
        square = tl.where(exists & (is_empty == 0), gradient, 0.0)
        total += tl.sum(square, 0)
        if finish.by_group:
            unmeasured = int32_of(clips + unit * GROUP_CLIP_WORDS, GROUP_CLIP_UNIT, exists) < 0
            own += tl.sum(tl.where(unmeasured, square, 0.0), 0)
    return total, own


@triton.jit
def clipped_square(places, own, finish: tl.constexpr):
    """The square of the joint norm after clipping, with that of groups which no policy measures, ``own``."""
    total = own
    norms = numbers_at(places, PLACE_GRAD_NORM)
    factors = numbers_at(places, PLACE_CLIP_FACTOR)
    clips = numbers_at(places, PLACE_GROUP_CLIPS)
    count = int32_at(places, PLACE_UNITS)
    lanes: tl.constexpr = 1 if finish.is_single else UNIT_LANES
    for first in range(0, count, lanes):
        unit = first + tl.arange(0, lanes)
        exists = unit < count
        if finish.by_group:  # groups in one norm have all the whole of it, which counts once
            exists = exists & (int32_of(clips + unit * GROUP_CLIP_WORDS, GROUP_CLIP_UNIT, exists) == unit)
        left = tl.load(norms + unit, exists, 0.0) * tl.load(factors + unit, exists, 0.0)
        total += tl.sum(left * left, 0)
    return total


@triton.jit
def take_bounds(places, joint, takes_step, finish: tl.constexpr):
    """AdaGC's factors, and, where ``takes_step`` is not 0, its bounds. Returns whether a factor is below 1."""
    policy = policy_at(places)
    norms = numbers_at(places, PLACE_GRAD_NORM)
    factors = numbers_at(places, PLACE_CLIP_FACTOR)
    bounds = numbers_at(places, PLACE_NORM_BOUNDS)
    count_place = numbers_at(places, PLACE_NORM_COUNT)
    step = tl.load(count_place) + 1.0
    clips = 0
    count = int32_at(places, PLACE_UNITS)
    lanes: tl.constexpr = 1 if finish.is_single else UNIT_LANES
    for first in range(0, count, lanes):
        unit = first + tl.arange(0, lanes)
        exists = unit < count
        norm = tl.load(norms + unit, exists, 0.0)
        factor, bound = tensor_bound_factor(norm, joint, step, tl.load(bounds + unit, exists, 0.0), policy)
        tl.debug_barrier()  # all have read
        tl.store(factors + unit, factor, exists)
        tl.store(bounds + unit, bound, only_if(takes_step, exists))
        clips = tl.maximum(clips, tl.max((exists & (factor < 1)).to(tl.int32), 0))
    tl.store(count_place, step, takes_step != 0)
    return clips


@triton.jit
def look_for_spike(places, value, values_place: tl.constexpr, count_place: tl.constexpr, looks):
    """Whether SkipSpikes finds that a value stands out; where it looks, one that is finite is remembered."""
    policy = policy_at(places)
    values = numbers_at(places, values_place)
    counted = numbers_at(places, count_place)
    count = whole(tl.load(counted))
    found = stands_out(value, values, count.to(tl.float64), policy)
    remembers = looks & is_finite(value)
    tl.debug_barrier()  # all have read
    tl.store(values + count % tl.load(policy + POLICY_SKIP_WINDOW).to(tl.int64), value, remembers)
    tl.store(counted, count.to(tl.float64) + 1.0, remembers)
    return (found & looks).to(tl.int32)


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
        remembers = takes_step & is_remembered(norm)
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
