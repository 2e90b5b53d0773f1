"""Coefficients from the numbers of param groups and parameters."""

from __future__ import annotations

import triton
import triton.language as tl

from .numbers import power
from .operands import int32_at, int32_of, only_if, read_number, write_number
from .policies import polyak_factor
from .rules import coefficients as coefficients_of_rule
from .steering import lr_of
from .sums import integers_at, numbers_at, policy_at
from .tables import (
    COEFFICIENTS_GRADIENT_SCALE,
    COEFFICIENTS_NOISE_SCALE,
    COEFFICIENTS_RULE,
    COEFFICIENTS_SHRINK,
    COEFFICIENTS_VALUE_LIMIT,
    COEFFICIENTS_WEIGHT_DECAY,
    COEFFICIENTS_WORDS,
    GROUP_DECOUPLED,
    GROUP_MAXIMIZE,
    GROUP_WEIGHT_DECAY,
    GROUP_WORDS,
    PLACE_COEFFICIENTS,
    PLACE_COEFFICIENTS_COUNT,
    PLACE_FRESH,
    PLACE_GROUPS,
    PLACE_NEXT_SCALES,
    PLACE_SOURCES,
    POLICY_LIMIT,
    POLICY_NOISE_ETA,
    POLICY_NOISE_GAMMA,
    POLYAK_STEP_SIZE,
    SOURCE_FRESH,
    SOURCE_GROUP,
    SOURCE_IS_DOUBLE,
    SOURCE_SCALAR,
    SOURCE_WORDS,
    VALUE_CLIP_POLICY,
)

COEFFICIENTS_LANES = tl.constexpr(128)  # sets at a time


@triton.jit
def hyperparameters(places, group, mask):
    """lr and the rule's other hyperparameters of param groups: a tuple of eight blocks."""
    numbers = numbers_at(places, PLACE_GROUPS) + group * GROUP_WORDS
    return (
        lr_of(places, group, mask),
        tl.load(numbers + 1, mask, 0.0),
        tl.load(numbers + 2, mask, 0.0),
        tl.load(numbers + 3, mask, 0.0),
        tl.load(numbers + 4, mask, 0.0),
        tl.load(numbers + 5, mask, 0.0),
        tl.load(numbers + 6, mask, 0.0),
        tl.load(numbers + 7, mask, 0.0),
    )


@triton.jit
def write_pipeline(places, coefficients, group, lr, step, inverse_scale, step_size, factor, finish: tl.constexpr, mask):
    """The pipeline's coefficients: csrc/step/make_coefficients.h.

    Args:
        places: the fields of FinishArguments or FinishRuleArguments.
        coefficients: pointers to where they go, one for each set.
        group: of each.
        lr: of each.
        step: the number of this step.
        inverse_scale: of a GradScaler.
        step_size: a factor on all gradients; PolyakStep's step.
        factor: of the clip policy, of each.
        finish: what the kernel is compiled for.
        mask: which sets there are.
    """
    policy = policy_at(places)
    numbers = numbers_at(places, PLACE_GROUPS) + group * GROUP_WORDS
    weight_decay = tl.load(numbers + GROUP_WEIGHT_DECAY, mask, 0.0)
    decoupled = tl.load(numbers + GROUP_DECOUPLED, mask, 0.0) != 0
    maximize = tl.load(numbers + GROUP_MAXIMIZE, mask, 0.0) != 0
    scale = tl.where(maximize, -inverse_scale, inverse_scale) * factor
    if finish.step_size == POLYAK_STEP_SIZE:
        step_size = polyak_factor(step_size, lr)
    noise = tl.zeros_like(lr)
    limit = noise + float("inf")
    if finish.clip == VALUE_CLIP_POLICY:
        limit = noise + tl.load(policy + POLICY_LIMIT)
    if finish.noise:
        shrinks = power(noise + step, noise + tl.load(policy + POLICY_NOISE_GAMMA))
        noise = tl.sqrt(tl.load(policy + POLICY_NOISE_ETA) / shrinks)
    tl.store(coefficients + COEFFICIENTS_GRADIENT_SCALE, scale * step_size, mask)
    tl.store(coefficients + COEFFICIENTS_VALUE_LIMIT, limit * step_size, mask)
    tl.store(coefficients + COEFFICIENTS_NOISE_SCALE, noise, mask)
    tl.store(coefficients + COEFFICIENTS_WEIGHT_DECAY, tl.where(decoupled, 0.0, weight_decay), mask)
    tl.store(coefficients + COEFFICIENTS_SHRINK, tl.where(decoupled, 1.0 - lr * weight_decay, 1.0), mask)


@triton.jit
def scalar_at(source, index: tl.constexpr, mask):
    """A number of state: where it lies, of which type it is, and its value."""
    address = tl.load(source + SOURCE_SCALAR + index, mask, 0)
    is_double = int32_of(source, SOURCE_IS_DOUBLE + index, mask)
    return address, is_double, read_number(address, is_double, mask & (address != 0))


@triton.jit
def write_rule(places, coefficients, source, h, norms, takes_step, finish: tl.constexpr, mask):
    """The rule's coefficients; where the step is taken, the numbers of state move on.

    Args:
        places: the fields of FinishArguments or FinishRuleArguments.
        coefficients: pointers to where they go, one for each set.
        source: pointers to what they are made from.
        h: see ``hyperparameters``.
        norms: of rules that clip themselves, see ``coefficients``.
        takes_step: int32, not 0 where the step is taken.
        finish: what the kernel is compiled for.
        mask: which sets there are.
    """
    address0, is_double0, scalar0 = scalar_at(source, 0, mask)
    address1, is_double1, scalar1 = scalar_at(source, 1, mask)
    first = mask & (mask == 0)
    if finish.fresh:
        fresh = tl.load(places + PLACE_FRESH).to(tl.pointer_type(tl.int32)) + int32_of(source, SOURCE_FRESH, mask)
        first = tl.load(fresh, mask, 0) != 0
        tl.store(fresh, 0, only_if(takes_step, mask))
    k, scalars = coefficients_of_rule(finish, h, (scalar0, scalar1), first, norms)
    k0, k1, k2, k3, k4, k5, k6, k7 = k
    if finish.threshold_scales:  # of the rules whose second coefficient is the threshold
        k1 = k1 * tl.load(numbers_at(places, PLACE_NEXT_SCALES) + int32_of(source, SOURCE_GROUP, mask), mask, 1.0)
    rule = coefficients + COEFFICIENTS_RULE
    tl.store(rule, k0, mask)
    tl.store(rule + 1, k1, mask)
    tl.store(rule + 2, k2, mask)
    tl.store(rule + 3, k3, mask)
    tl.store(rule + 4, k4, mask)
    tl.store(rule + 5, k5, mask)
    tl.store(rule + 6, k6, mask)
    tl.store(rule + 7, k7, mask)
    moved0, moved1 = scalars
    if finish.scalars > 0:
        write_number(address0, is_double0, moved0, only_if(takes_step, mask))
    if finish.scalars > 1:
        write_number(address1, is_double1, moved1, only_if(takes_step, mask))


@triton.jit
def coefficients_at(places, first):
    """Sets of coefficients from ``first`` on, as a block: pointers to them and to what they are made from, and which
    there are."""
    index = first + tl.arange(0, COEFFICIENTS_LANES)
    mask = index < int32_at(places, PLACE_COEFFICIENTS_COUNT)
    coefficients = numbers_at(places, PLACE_COEFFICIENTS) + index * COEFFICIENTS_WORDS
    source = integers_at(places, PLACE_SOURCES) + index * SOURCE_WORDS
    return coefficients, source, mask
