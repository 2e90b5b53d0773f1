"""What happens to the elements of a chunk, between memory and memory: shared by the passes."""

from __future__ import annotations

import triton
import triton.language as tl

from . import philox
from .numbers import whole
from .operands import int32_at, only_if, places_of, widen
from .tables import (
    COEFFICIENTS_GRADIENT_SCALE,
    COEFFICIENTS_NOISE_SCALE,
    COEFFICIENTS_RULE,
    COEFFICIENTS_SHRINK,
    COEFFICIENTS_VALUE_LIMIT,
    COEFFICIENTS_WEIGHT_DECAY,
    DRAW_GRADIENT_THRESHOLD,
    DRAW_KEY_HIGH,
    DRAW_KEY_LOW,
    DRAW_LR_THRESHOLD,
    FLOAT64,
    GRADIENT_DROPOUT,
    GRADIENT_NOISE,
    LR_DROPOUT,
    STEP_NUMBER,
    TENSOR_FIRST_ROW,
    TENSOR_INNER,
    TENSOR_NUMBER,
    TENSOR_PLACE_INNER,
    TENSOR_PLACE_OFFSET,
    TENSOR_PLACE_OUTER,
    TENSOR_ROWS,
)


@triton.jit
def compute(number, dtype: tl.constexpr):
    """A float64 number in the type that elements of ``dtype`` are computed in."""
    if dtype == FLOAT64:
        return number
    else:
        return number.to(tl.float32)


@triton.jit
def read(address, tensor, operand: tl.constexpr, begin, offsets, mask, dtype: tl.constexpr, access: tl.constexpr):
    """Elements of an operand in the compute type; 0 outside the mask. See ``places_of``."""
    return widen(tl.load(places_of(address, tensor, operand, begin, offsets, dtype, access), mask, 0), dtype)


@triton.jit
def row_factor(factors, tensor, element):
    """The factor of each element's row, float64; 1 where the tensor has no rows.

    Args:
        factors: float64 [rows of all tensors].
        tensor: the tensor's row in the table.
        element: int64, by number within the tensor.
    """
    count = tl.load(tensor + TENSOR_ROWS)
    line = element // tl.load(tensor + TENSOR_INNER)
    row = tl.load(tensor + TENSOR_FIRST_ROW) + line % tl.maximum(count, 1)
    return tl.load(factors + row, only_if(count.to(tl.int32), element >= 0), 1.0)


@triton.jit
def pipeline_coefficients(coefficients, dtype: tl.constexpr):
    """gradient_scale, value_limit, noise_scale, weight_decay and shrink of a set of coefficients."""
    return (
        compute(tl.load(coefficients + COEFFICIENTS_GRADIENT_SCALE), dtype),
        compute(tl.load(coefficients + COEFFICIENTS_VALUE_LIMIT), dtype),
        compute(tl.load(coefficients + COEFFICIENTS_NOISE_SCALE), dtype),
        compute(tl.load(coefficients + COEFFICIENTS_WEIGHT_DECAY), dtype),
        compute(tl.load(coefficients + COEFFICIENTS_SHRINK), dtype),
    )


@triton.jit
def rule_coefficients(coefficients, dtype: tl.constexpr):
    """The eight that the rule has room for."""
    rule = coefficients + COEFFICIENTS_RULE
    return (
        compute(tl.load(rule), dtype),
        compute(tl.load(rule + 1), dtype),
        compute(tl.load(rule + 2), dtype),
        compute(tl.load(rule + 3), dtype),
        compute(tl.load(rule + 4), dtype),
        compute(tl.load(rule + 5), dtype),
        compute(tl.load(rule + 6), dtype),
        compute(tl.load(rule + 7), dtype),
    )


@triton.jit
def rule_coefficients_of_rows(coefficients, factor, dtype: tl.constexpr):
    """The same for a rule with a step size of its own for each row: the product is in float64, as on the CPU.

    Only the functor ``momentum`` has those; its third and fourth coefficients are the step.
    """
    rule = coefficients + COEFFICIENTS_RULE
    return (
        compute(tl.load(rule), dtype),
        compute(tl.load(rule + 1), dtype),
        compute(tl.load(rule + 2) * factor, dtype),
        compute(tl.load(rule + 3) * factor, dtype),
        compute(tl.load(rule + 4), dtype),
        compute(tl.load(rule + 5), dtype),
        compute(tl.load(rule + 6), dtype),
        compute(tl.load(rule + 7), dtype),
    )


@triton.jit
def draw_key(draws, numbers, tensor):
    """What every draw of a tensor in this step starts from: both halves of the seed, the step, and the parameter."""
    step = whole(tl.load(numbers + STEP_NUMBER))
    return tl.load(draws + DRAW_KEY_LOW), tl.load(draws + DRAW_KEY_HIGH), step, int32_at(tensor, TENSOR_NUMBER)


@triton.jit
def in_whole(tensor, element):
    """The numbers of elements, int64, in the tensor that this one is a part of."""
    inner = tl.load(tensor + TENSOR_PLACE_INNER)
    length = tl.maximum(inner, 1)
    piece = element // length * tl.load(tensor + TENSOR_PLACE_OUTER) + element % length
    return tl.load(tensor + TENSOR_PLACE_OFFSET) + tl.where(tl.zeros_like(element) + inner == 0, element, piece)


@triton.jit
def gradient_draws(
    draws, numbers, tensor, first, count: tl.constexpr, stages: tl.constexpr, in_parts: tl.constexpr = False
):
    """Which of ``count`` elements the gradient dropout keeps, and the noise; each 0 where it is not in use.

    Args:
        draws: the draws' numbers.
        numbers: of the step.
        tensor: the tensor's row in the table.
        first: number of the first element, a multiple of 4.
        count: a power of two, at least 4.
        stages: bits, those in use.
        in_parts: the elements go by their numbers in the tensor that this one is a part of.
    """
    if in_parts:
        return gradient_draws_at(draws, numbers, tensor, first + tl.arange(0, count), stages, in_parts)
    keep = 0
    normal = 0.0
    if (GRADIENT_DROPOUT | GRADIENT_NOISE) & stages != 0:
        low, high, step, member = draw_key(draws, numbers, tensor)
        if GRADIENT_DROPOUT & stages != 0:
            threshold = tl.load(draws + DRAW_GRADIENT_THRESHOLD)
            keep = philox.keep(low, high, step, member, first, threshold, philox.GRADIENT_DROPOUT_STREAM, count)
        if GRADIENT_NOISE & stages != 0:
            normal = philox.normal(low, high, step, member, first, count)
    return keep, normal


@triton.jit
def gradient_draws_at(draws, numbers, tensor, element, stages: tl.constexpr, in_parts: tl.constexpr = False):
    """The same for elements, int64, that need not follow one another."""
    if in_parts:
        element = in_whole(tensor, element)
    keep = 0
    normal = 0.0
    if (GRADIENT_DROPOUT | GRADIENT_NOISE) & stages != 0:
        low, high, step, member = draw_key(draws, numbers, tensor)
        if GRADIENT_DROPOUT & stages != 0:
            threshold = tl.load(draws + DRAW_GRADIENT_THRESHOLD)
            keep = philox.keep_at(low, high, step, member, element, threshold, philox.GRADIENT_DROPOUT_STREAM)
        if GRADIENT_NOISE & stages != 0:
            normal = philox.normal_at(low, high, step, member, element)
    return keep, normal


@triton.jit
def step_draws(
    draws, numbers, tensor, first, count: tl.constexpr, stages: tl.constexpr, in_parts: tl.constexpr = False
):
    """Which of ``count`` elements the dropout of the step keeps; 0 where it is not in use. See ``gradient_draws``."""
    keep = 0
    if LR_DROPOUT & stages != 0:
        low, high, step, member = draw_key(draws, numbers, tensor)
        threshold = tl.load(draws + DRAW_LR_THRESHOLD)
        if in_parts:
            element = in_whole(tensor, first + tl.arange(0, count))
            keep = philox.keep_at(low, high, step, member, element, threshold, philox.LR_DROPOUT_STREAM)
        else:
            keep = philox.keep(low, high, step, member, first, threshold, philox.LR_DROPOUT_STREAM, count)
    return keep
