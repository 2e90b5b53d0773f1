"""The update pass: one program for each piece of a chunk.

Programs start in the order of their numbers. Small pieces keep the addresses that are under way at one time close
together, for the memory's open pages and the cache of address translations, and while one program looks up where its
elements lie, others move theirs. The norm passes, which only read, take chunks whole: each program has a partial sum to
write there.
"""

from __future__ import annotations

import triton
import triton.language as tl

from . import pipeline, rules
from .codecs import encoded_parameter, read_parameter, read_slot, rounding_bits, write_beside, write_slot
from .elements import (
    compute,
    gradient_draws,
    pipeline_coefficients,
    read,
    row_factor,
    rule_coefficients,
    rule_coefficients_of_rows,
    step_draws,
)
from .operands import int32_at, main_part, narrow, only_if, places_of, widen
from .tables import (
    ALIGNED,
    ANYHOW,
    BESIDE_WORDS,
    CHUNK_BEGIN,
    CHUNK_COUNT,
    CHUNK_GRAIN,
    CHUNK_TENSOR,
    CHUNK_WORDS,
    COEFFICIENTS_GRADIENT_SCALE,
    COEFFICIENTS_WORDS,
    COUPLED_DECAY,
    FLOAT32,
    FLOAT64,
    GRADIENT,
    LR_DROPOUT,
    NEAREST,
    PARAMETER,
    SLOW,
    STEP_AVERAGE_WEIGHT,
    STEP_SKIPS,
    STEP_SYNCHRONISES,
    STOCHASTIC,
    TENSOR_COEFFICIENTS,
    TENSOR_WORDS,
)


@triton.jit
def read_at(where, operand: tl.constexpr, address, dtype: tl.constexpr, access: tl.constexpr):
    """Elements of an operand in the compute type.

    Args:
        where: the tensor's row in the table, the chunk's begin, the offsets from there, and which of
            them there are.
        operand: by number.
        address: of its first element.
        dtype: of what is stored.
        access: how it is reached.
    """
    tensor, begin, offsets, mask = where
    return read(address, tensor, operand, begin, offsets, mask, dtype, access)


@triton.jit
def write_at(where, operand: tl.constexpr, address, stored, dtype: tl.constexpr, access: tl.constexpr):
    """The counterpart, of elements as they are stored."""
    tensor, begin, offsets, mask = where
    tl.store(places_of(address, tensor, operand, begin, offsets, dtype, access), stored, mask)


@triton.jit
def read_state(where, beside, unused, run: tl.constexpr, access: tl.constexpr):
    """The state in use, and ``unused`` in the place of what is not: a tuple of three. For ``beside`` see
    ``update_block``."""
    tensor, begin, offsets, mask = where
    state0 = unused
    state1 = unused
    state2 = unused
    if run.slots & 1 != 0:
        state0 = read_slot(tensor, beside, 0, begin, offsets, mask, run.form0, run.dtype0, access)
    if run.slots & 2 != 0:
        state1 = read_slot(tensor, beside, 1, begin, offsets, mask, run.form1, run.dtype1, access)
    if run.slots & 4 != 0:
        state2 = read_slot(tensor, beside, 2, begin, offsets, mask, run.form2, run.dtype2, access)
    return state0, state1, state2


@triton.jit
def write_state(where, beside, state, key, first, run: tl.constexpr, access: tl.constexpr, count: tl.constexpr):
    """The counterpart."""
    tensor, begin, offsets, mask = where
    state0, state1, state2 = state
    if run.slots & 1 != 0:
        write_slot(
            state0, tensor, beside, 0, begin, offsets, mask, key, first, run.form0, run.dtype0, access, count,
            run.in_parts,
        )  # fmt: skip
    if run.slots & 2 != 0:
        write_slot(
            state1, tensor, beside, 1, begin, offsets, mask, key, first, run.form1, run.dtype1, access, count,
            run.in_parts,
        )  # fmt: skip
    if run.slots & 4 != 0:
        write_slot(
            state2, tensor, beside, 2, begin, offsets, mask, key, first, run.form2, run.dtype2, access, count,
            run.in_parts,
        )  # fmt: skip


@triton.jit
def as_stored(value, run: tl.constexpr):
    """A new parameter as a later step will find it; where it is rounded at random, which happens once, as it is."""
    if run.form == NEAREST:
        return widen(narrow(value, run.parameter_dtype), run.parameter_dtype)
    else:
        return value


@triton.jit
def look_ahead(where, value, numbers, synchronises, run: tl.constexpr, access: tl.constexpr):
    """The parameters after Lookahead, where it ends a round; the slow weights are read and written then alone.
    WeightEMA's average is in their place, and leaves the parameters as they are."""
    tensor, begin, offsets, mask = where
    dtype: tl.constexpr = FLOAT64 if run.dtype == FLOAT64 else FLOAT32
    mask = only_if(synchronises, mask)
    here = (tensor, begin, offsets, mask)
    address = tl.load(tensor + SLOW)
    weight = compute(tl.load(numbers + STEP_AVERAGE_WEIGHT), run.dtype)
    slow = pipeline.synchronise(as_stored(value, run), read_at(here, SLOW, address, dtype, access), weight)
    write_at(here, SLOW, address, slow, dtype, access)
    if run.averages:
        return value
    return tl.where(mask, slow, value)


@triton.jit
def scaled_coefficients(where, coefficients, factors, run: tl.constexpr):
    """The coefficients of pipeline and rule, where rows of the tensor have factors of their own.

    Args:
        where: see ``read_at``.
        coefficients: pointer to those of the tensor.
        factors: on the gradient and on the step, float64 [rows of all tensors], each None where there are none.
        run: what the kernel is compiled for.
    """
    tensor, begin, offsets, _ = where
    of_gradient, of_step = factors
    scale, limit, noise_scale, weight_decay, shrink = pipeline_coefficients(coefficients, run.dtype)
    if of_gradient is not None:
        factor = row_factor(of_gradient, tensor, begin + offsets)
        scale = compute(tl.load(coefficients + COEFFICIENTS_GRADIENT_SCALE) * factor, run.dtype)
    if of_step is not None:
        factor = row_factor(of_step, tensor, begin + offsets)
        rule = rule_coefficients_of_rows(coefficients, factor, run.dtype)
    else:
        rule = rule_coefficients(coefficients, run.dtype)
    return (scale, limit, noise_scale, weight_decay, shrink), rule


@triton.jit
def update_block(
    where,
    beside,
    gradient_address,
    coefficients,
    step,
    factors,
    first,
    run: tl.constexpr,
    access: tl.constexpr,
    count: tl.constexpr,
):
    """Updates ``count`` neighbours; returns how many of them are exactly zero now, where that is counted.

    Args:
        where: see ``read_at``.
        beside: the tensor's row in the table of what is kept beside operands; looked at under a precision policy
            alone.
        gradient_address: of the gradient's first element.
        coefficients: pointer to those of the tensor.
        step: the numbers of the step and of the draws, and, int32, not 0 where Lookahead ends a round or WeightEMA
            averages.
        factors: see ``scaled_coefficients``.
        first: of the offsets.
        run: what the kernel is compiled for.
        access: how these elements are reached.
        count: a power of two.
    """
    tensor, begin, offsets, mask = where
    numbers, draws, synchronises = step
    around, rule = scaled_coefficients(where, coefficients, factors, run)
    scale, limit, noise_scale, weight_decay, shrink = around
    # Everything is read before anything is computed with, so that many loads are on their way at once.
    gradient = read_at(where, GRADIENT, gradient_address, run.gradient_dtype, access)
    parameter = gradient
    if run.family != "soft_threshold" or COUPLED_DECAY & run.stages != 0:
        parameter = read_parameter(tensor, beside, begin, offsets, mask, run, access)
    state = read_state(where, beside, gradient, run, access)

    keep, normal = gradient_draws(draws, numbers, tensor, begin + first, count, run.stages, run.in_parts)
    gradient = pipeline.prepare(gradient, parameter, keep, normal, scale, limit, noise_scale, weight_decay, run.stages)
    decayed = parameter * shrink
    parameter, state = rules.apply(run, decayed, gradient, state, rule)
    if LR_DROPOUT & run.stages != 0:
        keep = step_draws(draws, numbers, tensor, begin + first, count, run.stages, run.in_parts)
        parameter = pipeline.choose(decayed, parameter, keep)
    if run.lookahead:
        parameter = look_ahead(where, parameter, numbers, synchronises, run, access)
    bits = 0
    if run.form == STOCHASTIC:
        bits = rounding_bits(draws, numbers, tensor, begin + first, 0, count, run.in_parts)
    stored = encoded_parameter(parameter, bits, run)
    zeros = 0
    if run.counts_zeros:
        zeros = tl.sum(((widen(stored, run.parameter_dtype) == 0) & mask).to(tl.int32), 0)
    write_at(where, PARAMETER, tl.load(tensor + PARAMETER), stored, run.parameter_dtype, access)
    write_beside(parameter, tensor, beside, begin, offsets, mask, run, access)
    write_state(where, beside, state, (draws, numbers), first, run, access, count)
    return zeros


# Both depend on the sizes of all tensors, and must not ask for another variant.
@triton.jit(do_not_specialize=["pieces"], do_not_specialize_on_alignment=["chunks"])
def update_kernel(
    tensors,
    gradients,
    chunks,
    coefficients,
    numbers,
    draws,
    row_gradient_factors,
    row_step_factors,
    zeros,
    beside,
    pieces,
    run: tl.constexpr,
):
    """Updates a piece of a chunk.

    Args:
        tensors: int64 [tensors, TENSOR_WORDS].
        gradients: int64 [tensors], addresses.
        chunks: int64 [programs / pieces, CHUNK_WORDS].
        coefficients: float64 [sets, COEFFICIENTS_WORDS].
        numbers: StepNumbers; None where nothing decides whether it is taken.
        draws: int64, the draws' numbers.
        row_gradient_factors: float64 [rows of all tensors], on the gradient; None where there are none.
        row_step_factors: the same on the step.
        zeros: int64 [programs], written where the run counts zeros.
        beside: int64 [tensors, BESIDE_WORDS], what a precision policy keeps beside operands; None without one.
        pieces: int32, of the largest chunk. A smaller one may have fewer, and programs beyond its end do nothing.
        run: what the kernel is compiled for, ``Run``.
    """
    block: tl.constexpr = run.block
    # In the reverse order of the norm pass, of which the end is still in the second-level cache.
    number = tl.num_programs(0) - 1 - tl.program_id(0)
    chunk = chunks + number // pieces * CHUNK_WORDS
    behind = number % pieces * run.piece
    index = int32_at(chunk, CHUNK_TENSOR)
    begin = tl.multiple_of(tl.load(chunk + CHUNK_BEGIN), CHUNK_GRAIN)
    total = int32_at(chunk, CHUNK_COUNT).to(tl.int32)
    total = tl.minimum(total, behind + run.piece)
    tensor = tensors + index * TENSOR_WORDS
    synchronises = 0
    if numbers is not None:
        # A step that is skipped has nothing to update.
        total = tl.where(int32_at(numbers, STEP_SKIPS) != 0, 0, total)
        synchronises = int32_at(numbers, STEP_SYNCHRONISES).to(tl.int32)
    own = coefficients + int32_at(tensor, TENSOR_COEFFICIENTS) * COEFFICIENTS_WORDS
    gradient = tl.load(gradients + index)
    if beside is not None:
        beside += index * BESIDE_WORDS
    step = (numbers, draws, synchronises)
    factors = (row_gradient_factors, row_step_factors)
    main = main_part(total, run.access, run.group)
    count = tl.full([], 0, tl.int32)
    # The tail comes first, and what tells of it takes no registers in the loop.
    if run.access == ALIGNED and (main < total) & (behind < total):
        offsets = main + tl.arange(0, run.group)
        where = (tensor, begin, offsets, offsets < total)
        count += update_block(where, beside, gradient, own, step, factors, main, run, ANYHOW, run.group)
    for first in range(behind, main, block):
        offsets = first + tl.arange(0, block)
        where = (tensor, begin, offsets, offsets < main)
        count += update_block(where, beside, gradient, own, step, factors, first, run, run.access, block)
    if run.counts_zeros and behind < total:
        tl.store(zeros + number, count.to(tl.int64))
