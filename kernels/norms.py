"""The norm passes: one program for each chunk, and the program that is last works out what follows from the sums.

A pass may be several launches, one for each kind of tensor: the last program of them all finishes it. Sums are taken in
a fixed order, and nothing is added atomically but the count of programs that are done, so a step repeats bit for bit.
"""

from __future__ import annotations

import triton
import triton.language as tl

from . import pipeline
from .codecs import read_parameter, read_slot
from .elements import (
    compute,
    gradient_draws,
    pipeline_coefficients,
    read,
    row_factor,
    rule_coefficients,
)
from .finish_rule import finish_rule
from .finish_step import finish_step, inverse_scale
from .momentum import average
from .operands import GROUP, int32_at, main_part
from .sums import int32s_at
from .tables import (
    ALIGNED,
    ANYHOW,
    BESIDE_WORDS,
    CHUNK_BEGIN,
    CHUNK_COUNT,
    CHUNK_GRAIN,
    CHUNK_PARTIAL,
    CHUNK_TENSOR,
    CHUNK_WORDS,
    COEFFICIENTS_GRADIENT_SCALE,
    COEFFICIENTS_WORDS,
    COUPLED_DECAY,
    FLOAT64,
    GRADIENT,
    PLACE_BLOCKS,
    PLACE_BLOCKS_DONE,
    SUM_DIRECTION,
    SUM_WORDS,
    TENSOR_COEFFICIENTS,
    TENSOR_WORDS,
)


@triton.jit
def is_last(places):
    """Whether this is the last program of a pass; it sees what all others have written."""
    done = int32s_at(places, PLACE_BLOCKS_DONE)
    tl.debug_barrier()  # all threads of this program have written
    before = tl.atomic_add(done, 1, sem="acq_rel")
    last = before == int32_at(places, PLACE_BLOCKS) - 1
    tl.store(done, 0, last)
    return last


@triton.jit
def write_sums(partials, partial, gradient, direction):
    """A chunk's partial sums."""
    tl.store(partials + partial * SUM_WORDS, gradient)
    tl.store(partials + partial * SUM_WORDS + SUM_DIRECTION, direction)


# Chunks begin where those of another run end; the other three are a caller's tensors.
@triton.jit(do_not_specialize_on_alignment=["chunks", "grad_scale", "found_inf", "loss"])
def gradient_norm_kernel(
    tensors,
    gradients,
    chunks,
    partials,
    places,
    grad_scale,
    found_inf,
    loss,
    dtype: tl.constexpr,
    access: tl.constexpr,
    block: tl.constexpr,
    finish: tl.constexpr,
):
    """The squares of the gradients of a chunk, for a clip policy.

    Args:
        tensors: int64 [tensors, TENSOR_WORDS].
        gradients: int64 [tensors], addresses.
        chunks: int64 [programs, CHUNK_WORDS].
        partials: float64 [chunks of all launches, SUM_WORDS], written.
        places: int64, the fields of FinishArguments or FinishRuleArguments.
        grad_scale, found_inf, loss: see ``finish_step``.
        dtype: of the gradients.
        access: how they are reached.
        block: elements at a time.
        finish: ``Finish``.
    """
    chunk = chunks + tl.program_id(0) * CHUNK_WORDS
    index = int32_at(chunk, CHUNK_TENSOR)
    begin = tl.multiple_of(tl.load(chunk + CHUNK_BEGIN), CHUNK_GRAIN)
    total = int32_at(chunk, CHUNK_COUNT).to(tl.int32)
    tensor = tensors + index * TENSOR_WORDS
    address = tl.load(gradients + index)
    # Undone before squaring: the squares of a scaled gradient may overflow.
    scale = compute(inverse_scale(grad_scale), dtype)
    main = main_part(total, access)
    squares = tl.zeros([block], tl.float64 if dtype == FLOAT64 else tl.float32)
    for first in range(0, main, block):
        offsets = first + tl.arange(0, block)
        gradient = read(address, tensor, GRADIENT, begin, offsets, offsets < main, dtype, access) * scale
        squares += gradient * gradient
    result = tl.sum(squares.to(tl.float64), 0)
    if access == ALIGNED:
        offsets = main + tl.arange(0, GROUP)
        rest = read(address, tensor, GRADIENT, begin, offsets, offsets < total, dtype, ANYHOW) * scale
        result += tl.sum((rest * rest).to(tl.float64), 0)
    write_sums(partials, int32_at(chunk, CHUNK_PARTIAL), result, 0.0)
    if is_last(places):
        finish_step(places, grad_scale, found_inf, loss, finish)


@triton.jit
def direction_squares(
    tensor,
    gradients,
    coefficients,
    numbers,
    draws,
    row_gradient_factors,
    beside,
    index,
    begin,
    offsets,
    first,
    mask,
    run: tl.constexpr,
    access: tl.constexpr,
    count: tl.constexpr,
):
    """The squares of the gradient as the rule sees it, and of its direction; see ``update_block`` for the arguments."""
    scale, limit, noise_scale, weight_decay, _ = pipeline_coefficients(coefficients, run.dtype)
    if row_gradient_factors is not None:
        factor = row_factor(row_gradient_factors, tensor, begin + offsets)
        scale = compute(tl.load(coefficients + COEFFICIENTS_GRADIENT_SCALE) * factor, run.dtype)
    gradient = read(tl.load(gradients + index), tensor, GRADIENT, begin, offsets, mask, run.gradient_dtype, access)
    parameter = gradient
    if COUPLED_DECAY & run.stages != 0:
        parameter = read_parameter(tensor, beside, begin, offsets, mask, run, access)
    buffer = gradient
    if run.slots & 1 != 0:
        buffer = read_slot(tensor, beside, 0, begin, offsets, mask, run.form0, run.dtype0, access)
    keep, normal = gradient_draws(draws, numbers, tensor, begin + first, count, run.stages, run.in_parts)
    gradient = pipeline.prepare(gradient, parameter, keep, normal, scale, limit, noise_scale, weight_decay, run.stages)
    # Noise and decay are not 0 where there is no element.
    gradient = tl.where(mask, gradient, 0.0)
    direction = average(gradient, buffer, rule_coefficients(coefficients, run.dtype), run.slots)
    return gradient * gradient, direction * direction


@triton.jit(do_not_specialize_on_alignment=["chunks"])
def direction_norm_kernel(
    tensors,
    gradients,
    chunks,
    coefficients,
    numbers,
    draws,
    row_gradient_factors,
    partials,
    places,
    beside,
    run: tl.constexpr,
    finish: tl.constexpr,
):
    """The squares of a chunk that a rule takes itself. The state is advanced in registers and not written.

    Args:
        tensors, gradients, chunks, partials, places: see ``gradient_norm_kernel``.
        coefficients: float64 [sets, COEFFICIENTS_WORDS], as they are before the norms are known.
        numbers: StepNumbers; None where there was no first finish.
        draws: int64, the draws' numbers.
        row_gradient_factors: float64 [rows of all tensors]; None where there are none.
        beside: see ``update_kernel``.
        run: ``Run``.
        finish: ``Finish``.
    """
    block: tl.constexpr = run.block
    chunk = chunks + tl.program_id(0) * CHUNK_WORDS
    index = int32_at(chunk, CHUNK_TENSOR)
    begin = tl.multiple_of(tl.load(chunk + CHUNK_BEGIN), CHUNK_GRAIN)
    total = int32_at(chunk, CHUNK_COUNT).to(tl.int32)
    tensor = tensors + index * TENSOR_WORDS
    own = coefficients + int32_at(tensor, TENSOR_COEFFICIENTS) * COEFFICIENTS_WORDS
    if beside is not None:
        beside += index * BESIDE_WORDS
    main = main_part(total, run.access)
    seen = tl.zeros([block], tl.float64 if run.dtype == FLOAT64 else tl.float32)
    taken = tl.zeros_like(seen)
    for first in range(0, main, block):
        offsets = first + tl.arange(0, block)
        gradient, direction = direction_squares(
            tensor, gradients, own, numbers, draws, row_gradient_factors, beside, index, begin,
            offsets, first, offsets < main, run, run.access, block,
        )  # fmt: skip
        seen += gradient
        taken += direction
    gradient_sum = tl.sum(seen.to(tl.float64), 0)
    direction_sum = tl.sum(taken.to(tl.float64), 0)
    if run.access == ALIGNED:
        offsets = main + tl.arange(0, GROUP)
        gradient, direction = direction_squares(
            tensor, gradients, own, numbers, draws, row_gradient_factors, beside, index, begin,
            offsets, main, offsets < total, run, ANYHOW, GROUP,
        )  # fmt: skip
        gradient_sum += tl.sum(gradient.to(tl.float64), 0)
        direction_sum += tl.sum(direction.to(tl.float64), 0)
    write_sums(partials, int32_at(chunk, CHUNK_PARTIAL), gradient_sum, direction_sum)
    if is_last(places):
        finish_rule(places, numbers, False, finish)
