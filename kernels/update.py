"""The update pass: one program for each chunk."""

from __future__ import annotations

import triton
import triton.language as tl

from . import pipeline, rules
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
from .operands import GROUP, main_part, narrow, only_if, places_of, widen
from .tables import (
    ALIGNED,
    ANYHOW,
    CHUNK_BEGIN,
    CHUNK_COLUMNS,
    CHUNK_COUNT,
    CHUNK_GRAIN,
    CHUNK_PARTIAL,
    CHUNK_TENSOR,
    COUPLED_DECAY,
    FLOAT32,
    FLOAT64,
    GRADIENT,
    LR_DROPOUT,
    PARAMETER,
    POLICY_LOOKAHEAD_ALPHA,
    ROW_COLUMNS,
    ROW_GRADIENT_SCALE,
    SLOW,
    STATE,
    STEP_SKIPS,
    STEP_SYNCHRONISES,
    TENSOR_COLUMNS,
    TENSOR_ROW,
)


@triton.jit
def update_block(
    tensor,
    gradients,
    layouts,
    row,
    numbers,
    draws,
    policy,
    row_gradient_factors,
    row_step_factors,
    index,
    begin,
    offsets,
    first,
    mask,
    synchronises,
    run: tl.constexpr,
    access: tl.constexpr,
    count: tl.constexpr,
):
    """Updates ``count`` neighbours; returns how many of them are exactly zero now, where that is counted.

    Args:
        tensor: the tensor's row in the table.
        index: of the tensor, for its gradient.
        row: of the coefficients.
        begin: of the chunk.
        offsets: of the elements, from ``begin``.
        first: of the offsets.
        mask: which of them there are.
        synchronises: int32, not 0 where Lookahead ends a round.
        run: what the kernel is compiled for.
        access: how these elements are reached.
        count: a power of two.
    """
    slow_dtype: tl.constexpr = FLOAT64 if run.dtype == FLOAT64 else FLOAT32
    scale, limit, noise_scale, weight_decay, shrink = pipeline_coefficients(row, run.dtype)
    if row_gradient_factors is not None:
        factor = row_factor(row_gradient_factors, tensor, begin + offsets)
        scale = compute(tl.load(row + ROW_GRADIENT_SCALE) * factor, run.dtype)
    if row_step_factors is not None:
        factor = row_factor(row_step_factors, tensor, begin + offsets)
        coefficients = rule_coefficients_of_rows(row, factor, run.dtype)
    else:
        coefficients = rule_coefficients(row, run.dtype)

    # Everything is read before anything is computed with, so that many loads are on their way at once.
    parameter_address = tl.load(tensor + PARAMETER)
    gradient = read(tl.load(gradients + index), tensor, layouts, GRADIENT, begin, offsets, mask, run.dtype, access)
    parameter = gradient
    if run.family != "soft_threshold" or COUPLED_DECAY & run.stages != 0:
        parameter = read(parameter_address, tensor, layouts, PARAMETER, begin, offsets, mask, run.dtype, access)
    state0 = gradient
    state1 = gradient
    state2 = gradient
    if run.slots & 1 != 0:
        address0 = tl.load(tensor + STATE)
        state0 = read(address0, tensor, layouts, STATE, begin, offsets, mask, run.state_dtype, access)
    if run.slots & 2 != 0:
        address1 = tl.load(tensor + STATE + 1)
        state1 = read(address1, tensor, layouts, STATE + 1, begin, offsets, mask, run.state_dtype, access)
    if run.slots & 4 != 0:
        address2 = tl.load(tensor + STATE + 2)
        state2 = read(address2, tensor, layouts, STATE + 2, begin, offsets, mask, run.state_dtype, access)

    keep, normal = gradient_draws(draws, numbers, tensor, begin + first, count, run.stages)
    gradient = pipeline.prepare(gradient, parameter, keep, normal, scale, limit, noise_scale, weight_decay, run.stages)
    decayed = parameter * shrink
    parameter, state = rules.apply(run, decayed, gradient, (state0, state1, state2), coefficients)
    if LR_DROPOUT & run.stages != 0:
        keep = step_draws(draws, numbers, tensor, begin + first, count, run.stages)
        parameter = pipeline.choose(decayed, parameter, keep)
    stored = narrow(parameter, run.dtype)
    zeros = 0
    if run.counts_zeros:
        zeros = tl.sum(((widen(stored, run.dtype) == 0) & mask).to(tl.int32), 0)
    if run.lookahead:
        slow_mask = only_if(synchronises, mask)
        slow_address = tl.load(tensor + SLOW)
        slow = read(slow_address, tensor, layouts, SLOW, begin, offsets, slow_mask, slow_dtype, access)
        alpha = compute(tl.load(policy + POLICY_LOOKAHEAD_ALPHA), run.dtype)
        slow = pipeline.synchronise(widen(stored, run.dtype), slow, alpha)
        places = places_of(slow_address, tensor, layouts, SLOW, begin, offsets, slow_dtype, access)
        tl.store(places, slow, slow_mask)
        stored = tl.where(slow_mask, narrow(slow, run.dtype), stored)

    places = places_of(parameter_address, tensor, layouts, PARAMETER, begin, offsets, run.dtype, access)
    tl.store(places, stored, mask)
    state0, state1, state2 = state
    if run.slots & 1 != 0:
        places = places_of(address0, tensor, layouts, STATE, begin, offsets, run.state_dtype, access)
        tl.store(places, narrow(state0, run.state_dtype), mask)
    if run.slots & 2 != 0:
        places = places_of(address1, tensor, layouts, STATE + 1, begin, offsets, run.state_dtype, access)
        tl.store(places, narrow(state1, run.state_dtype), mask)
    if run.slots & 4 != 0:
        places = places_of(address2, tensor, layouts, STATE + 2, begin, offsets, run.state_dtype, access)
        tl.store(places, narrow(state2, run.state_dtype), mask)
    return zeros


@triton.jit
def update_kernel(
    tensors,
    gradients,
    layouts,
    chunks,
    rows,
    numbers,
    draws,
    policy,
    row_gradient_factors,
    row_step_factors,
    zeros,
    run: tl.constexpr,
):
    """Updates a chunk.

    Args:
        tensors: int64 [tensors, TENSOR_COLUMNS].
        gradients: int64 [tensors], addresses.
        layouts: int64, see TENSOR_LAYOUT.
        chunks: int64 [programs, CHUNK_COLUMNS].
        rows: float64 [rows, ROW_COLUMNS].
        numbers: float64, of the step; None where nothing decides whether it is taken.
        draws: int64, the draws' numbers.
        policy: float64, the policy's.
        row_gradient_factors: float64 [rows of all tensors], on the gradient; None where there are none.
        row_step_factors: the same on the step.
        zeros: int64 [chunks of all launches], written where the run counts zeros.
        run: what the kernel is compiled for, ``Run``.
    """
    block: tl.constexpr = run.block
    # In the reverse order of the norm pass, of which the end is still in the second-level cache.
    chunk = chunks + (tl.num_programs(0) - 1 - tl.program_id(0)) * CHUNK_COLUMNS
    index = tl.load(chunk + CHUNK_TENSOR)
    begin = tl.multiple_of(tl.load(chunk + CHUNK_BEGIN), CHUNK_GRAIN)
    total = tl.load(chunk + CHUNK_COUNT).to(tl.int32)
    tensor = tensors + index * TENSOR_COLUMNS
    synchronises = 0
    if numbers is not None:
        # A step that is skipped has nothing to update.
        total = tl.where(tl.load(numbers + STEP_SKIPS) != 0, 0, total)
        synchronises = tl.load(numbers + STEP_SYNCHRONISES).to(tl.int32)
    row = rows + tl.load(tensor + TENSOR_ROW) * ROW_COLUMNS
    main = main_part(total, run.access)
    count = tl.full([], 0, tl.int32)
    for first in range(0, main, block):
        offsets = first + tl.arange(0, block)
        count += update_block(
            tensor,
            gradients,
            layouts,
            row,
            numbers,
            draws,
            policy,
            row_gradient_factors,
            row_step_factors,
            index,
            begin,
            offsets,
            first,
            offsets < main,
            synchronises,
            run,
            run.access,
            block,
        )
    if run.access == ALIGNED and main < total:
        offsets = main + tl.arange(0, GROUP)
        count += update_block(
            tensor,
            gradients,
            layouts,
            row,
            numbers,
            draws,
            policy,
            row_gradient_factors,
            row_step_factors,
            index,
            begin,
            offsets,
            main,
            offsets < total,
            synchronises,
            run,
            ANYHOW,
            GROUP,
        )
    if run.counts_zeros and total > 0:
        tl.store(zeros + tl.load(chunk + CHUNK_PARTIAL), count.to(tl.int64))
