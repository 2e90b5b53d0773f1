"""The norm passes that keep the rows of the leading dimension apart."""

from __future__ import annotations

import triton
import triton.language as tl

from . import pipeline
from .codecs import read_parameter, read_slot
from .elements import compute, gradient_draws_at, pipeline_coefficients, read, row_factor, rule_coefficients
from .finish_rule import finish_rule
from .finish_step import finish_step, inverse_scale
from .momentum import average
from .norms import is_last, write_sums
from .operands import int32_at
from .sums import clip_row, policy_at, step_row
from .tables import (
    ANYHOW,
    BESIDE_WORDS,
    COEFFICIENTS_GRADIENT_SCALE,
    COEFFICIENTS_WORDS,
    COUPLED_DECAY,
    FLOAT64,
    GRADIENT,
    ROW_CHUNK_BEGIN,
    ROW_CHUNK_COUNT,
    ROW_CHUNK_LONG_ROW,
    ROW_CHUNK_PARTIAL,
    ROW_CHUNK_ROW,
    ROW_CHUNK_ROWS,
    ROW_CHUNK_TENSOR,
    ROW_CHUNK_WORDS,
    STEP_SKIPS,
    STRIDED,
    TENSOR_COEFFICIENTS,
    TENSOR_FIRST_ROW,
    TENSOR_INNER,
    TENSOR_NUMEL,
    TENSOR_ROWS,
    TENSOR_WORDS,
)


@triton.jit
def element_of_row(tensor, row, place):
    """The number within a tensor of the elements at those places of a row, int64. Rows that do not lie one after the
    other come in runs of ``TENSOR_INNER``."""
    count = tl.maximum(tl.load(tensor + TENSOR_ROWS), 1)
    inner = tl.load(tensor + TENSOR_INNER)
    element = row * inner + place
    if inner * count < tl.load(tensor + TENSOR_NUMEL) and tl.load(tensor + TENSOR_ROWS) > 0:
        element = place // inner * (inner * count) + row * inner + place % inner
    return element


@triton.jit
def extent_of(chunk, tensor):
    """How many rows a chunk has, and where in each it begins and ends."""
    rows = int32_at(chunk, ROW_CHUNK_ROWS)
    begin = tl.load(chunk + ROW_CHUNK_BEGIN)
    length = tl.load(tensor + TENSOR_NUMEL) // tl.maximum(tl.load(tensor + TENSOR_ROWS), 1)
    return tl.maximum(rows, 1), begin, tl.where(rows == 0, begin + tl.load(chunk + ROW_CHUNK_COUNT), length)


# Chunks begin where those of another run end; the other three are a caller's tensors.
@triton.jit(do_not_specialize_on_alignment=["chunks", "grad_scale", "found_inf", "loss"])
def row_norm_kernel(
    tensors,
    gradients,
    chunks,
    partials,
    row_factors,
    places,
    grad_scale,
    found_inf,
    loss,
    beside,
    run: tl.constexpr,
    finish: tl.constexpr,
):
    """The squares of the gradients and of the weights of each row, for AdaptiveGradientClip.

    Args:
        chunks: int64 [programs, ROW_CHUNK_WORDS].
        row_factors: float64 [rows of all tensors], written.
        beside: see ``update_kernel``.
        run: ``Run``; of it the types of gradient and parameter, and how they are reached.
        tensors, gradients, partials, places, grad_scale, found_inf, loss, finish: see ``gradient_norm_kernel``.
    """
    chunk = chunks + tl.program_id(0) * ROW_CHUNK_WORDS
    index = int32_at(chunk, ROW_CHUNK_TENSOR)
    tensor = tensors + index * TENSOR_WORDS
    gradient_address = tl.load(gradients + index)
    if beside is not None:
        beside += index * BESIDE_WORDS
    block: tl.constexpr = run.block
    scale = compute(inverse_scale(grad_scale), run.dtype)
    rows, begin, end = extent_of(chunk, tensor)
    is_part = int32_at(chunk, ROW_CHUNK_ROWS) == 0
    policy = policy_at(places)
    zero = tl.zeros([], tl.int64)
    gradient_total = tl.zeros([], tl.float64)
    direction_total = tl.zeros([], tl.float64)
    for behind in range(rows):
        row = tl.load(chunk + ROW_CHUNK_ROW) + behind
        squares = tl.zeros([block], tl.float64 if run.dtype == FLOAT64 else tl.float32)
        weights = tl.zeros_like(squares)
        for first in range(begin, end, block):
            place = first + tl.arange(0, block)
            element = element_of_row(tensor, row, place)
            mask = place < end
            gradient = read(gradient_address, tensor, GRADIENT, zero, element, mask, run.gradient_dtype, run.access)
            gradient *= scale
            weight = read_parameter(tensor, beside, zero, element, mask, run, run.access)
            squares += gradient * gradient
            weights += weight * weight
        gradient_sum = tl.sum(squares.to(tl.float64), 0)
        weight_sum = tl.sum(weights.to(tl.float64), 0)
        factor, direction = clip_row(policy, gradient_sum, weight_sum)
        tl.store(row_factors + tl.load(tensor + TENSOR_FIRST_ROW) + row, factor, is_part == 0)
        # The parts of a long row are put together at the end; the gradients of a tensor without rows stay as they are.
        is_long = int32_at(chunk, ROW_CHUNK_LONG_ROW) >= 0
        part = tl.where(is_long, weight_sum, gradient_sum)
        gradient_total += gradient_sum
        direction_total += tl.where(is_part, part, direction)
    write_sums(partials, int32_at(chunk, ROW_CHUNK_PARTIAL), gradient_total, direction_total)
    if is_last(places):
        finish_step(places, grad_scale, found_inf, loss, finish)


@triton.jit(do_not_specialize_on_alignment=["chunks"])
def row_direction_norm_kernel(
    tensors,
    gradients,
    chunks,
    coefficients,
    numbers,
    draws,
    row_gradient_factors,
    partials,
    row_factors,
    places,
    beside,
    run: tl.constexpr,
    finish: tl.constexpr,
):
    """The squares of the gradient as the rule sees it and of its direction, of each row, for AdaGradNorm.

    Args:
        chunks: int64 [programs, ROW_CHUNK_WORDS].
        coefficients: float64 [sets, COEFFICIENTS_WORDS], as they are before the norms are known.
        row_factors: float64 [rows of all tensors], written.
        tensors, gradients, numbers, draws, row_gradient_factors, partials, places, beside, run, finish: see
            ``direction_norm_kernel``.
    """
    chunk = chunks + tl.program_id(0) * ROW_CHUNK_WORDS
    index = int32_at(chunk, ROW_CHUNK_TENSOR)
    tensor = tensors + index * TENSOR_WORDS
    if beside is not None:
        beside += index * BESIDE_WORDS
    block: tl.constexpr = run.block
    own = coefficients + int32_at(tensor, TENSOR_COEFFICIENTS) * COEFFICIENTS_WORDS
    scale, limit, noise_scale, weight_decay, _ = pipeline_coefficients(own, run.dtype)
    access: tl.constexpr = STRIDED if run.access == STRIDED else ANYHOW
    skips = tl.full([], 0, tl.int32)
    if numbers is not None:
        skips = (int32_at(numbers, STEP_SKIPS) != 0).to(tl.int32)
    rows, begin, end = extent_of(chunk, tensor)
    is_part = int32_at(chunk, ROW_CHUNK_ROWS) == 0
    zero = tl.zeros([], tl.int64)
    gradient_total = tl.zeros([], tl.float64)
    direction_total = tl.zeros([], tl.float64)
    for behind in range(rows):
        row = tl.load(chunk + ROW_CHUNK_ROW) + behind
        seen = tl.zeros([block], tl.float64 if run.dtype == FLOAT64 else tl.float32)
        taken = tl.zeros_like(seen)
        for first in range(begin, end, block):
            place = first + tl.arange(0, block)
            element = element_of_row(tensor, row, place)
            mask = place < end
            address = tl.load(gradients + index)
            gradient = read(address, tensor, GRADIENT, zero, element, mask, run.gradient_dtype, access)
            parameter = gradient
            if COUPLED_DECAY & run.stages != 0:
                parameter = read_parameter(tensor, beside, zero, element, mask, run, access)
            buffer = gradient
            if run.slots & 1 != 0:
                buffer = read_slot(tensor, beside, 0, zero, element, mask, run.form0, run.dtype0, access)
            element_scale = scale
            if row_gradient_factors is not None:
                factor = row_factor(row_gradient_factors, tensor, element)
                element_scale = compute(tl.load(own + COEFFICIENTS_GRADIENT_SCALE) * factor, run.dtype)
            keep, normal = gradient_draws_at(draws, numbers, tensor, element, run.stages, run.in_parts)
            gradient = pipeline.prepare(
                gradient, parameter, keep, normal, element_scale, limit, noise_scale, weight_decay, run.stages
            )
            gradient = tl.where(mask, gradient, 0.0)
            direction = average(gradient, buffer, rule_coefficients(own, run.dtype), run.slots)
            seen += gradient * gradient
            taken += direction * direction
        gradient_sum = tl.sum(seen.to(tl.float64), 0)
        if is_part == 0:
            factor = step_row(tensor, row, gradient_sum, skips)
            tl.store(row_factors + tl.load(tensor + TENSOR_FIRST_ROW) + row, factor)
        gradient_total += gradient_sum
        direction_total += tl.sum(taken.to(tl.float64), 0)
    write_sums(partials, int32_at(chunk, ROW_CHUNK_PARTIAL), gradient_total, direction_total)
    if is_last(places):
        finish_rule(places, numbers, True, finish)
