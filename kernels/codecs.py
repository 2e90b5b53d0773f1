"""Operands as a precision policy holds them, decoded to float32 where they are read and encoded where they are written:
the counterpart of ``csrc/codecs.h``. Without a policy every form is ``NEAREST``."""

from __future__ import annotations

import triton
import triton.language as tl

from . import philox
from .elements import draw_key, in_whole, read
from .numbers import quotient
from .operands import QUIET_NAN, narrow, places_of
from .tables import (
    BESIDE_ABSMAX,
    BESIDE_PARAMETER,
    BFLOAT16,
    BLOCK,
    BLOCKS,
    BYTE,
    FLOAT32,
    MASTER,
    OPERANDS,
    PARAMETER,
    SPLIT,
    STATE,
    STOCHASTIC,
)

HALF = tl.constexpr(0x8000)
MAGNITUDE = tl.constexpr(0x7FFFFFFF)
INFINITE = tl.constexpr(0x7F800000)
ROUNDING_STREAM = tl.constexpr(3)  # operands 2 i and 2 i + 1 have the halves of the words of this one and i more
ONE = tl.constexpr(0x3F800000)  # the bits of 1
LEAST_ABSMAX, BEHIND_MOST_SCALE = tl.constexpr(2.0**-120), tl.constexpr(2.0**126)
LAST_STEP, BY_LAST_STEP = tl.constexpr(63 / 64), tl.constexpr(64 / 63)
UNSIGNED_STEP = tl.constexpr(2.0**-8)
SIGNED_ROUNDER, UNSIGNED_ROUNDER = tl.constexpr(1.5 * 2**16), tl.constexpr(1.5 * 2**15)  # their last place is a step


@triton.jit
def join(high, low):
    """The float32 value of a bfloat16's bits, uint16, and what they lack, int16; the bits' own where they make no such
    pair."""
    upper = high.to(tl.uint32) << 16
    added = low.to(tl.int32).to(tl.uint32, bitcast=True)
    # Below zero, which wraps, or beyond infinity.
    added = tl.where((upper & MAGNITUDE) + added > INFINITE, 0, added).to(tl.uint32)
    return (upper + added).to(tl.float32, bitcast=True)


@triton.jit
def upper_part(value):
    """The bits, uint16, of the nearest bfloat16, ties away from zero."""
    bits = value.to(tl.uint32, bitcast=True)
    return tl.where(value == value, (bits + HALF) >> 16, QUIET_NAN).to(tl.uint16)


@triton.jit
def lower_part(value):
    """What a value's bits are more than those, int16."""
    bits = value.to(tl.uint32, bitcast=True)
    return tl.where(value == value, bits & 0xFFFF, 0).to(tl.uint16).to(tl.int16, bitcast=True)


@triton.jit
def stochastic(value, bits):
    """The bits, uint16, of a value rounded to bfloat16 away from zero where its lower 16 bits and ``bits``, in [0,
    2^16), reach 2^16, else towards it."""
    own = value.to(tl.uint32, bitcast=True)
    return tl.where(value == value, (own + bits) >> 16, QUIET_NAN).to(tl.uint16)


@triton.jit
def rounding_bits(
    draws, numbers, tensor, first, operand: tl.constexpr, count: tl.constexpr, in_parts: tl.constexpr = False
):
    """The 16 bits that each of ``count`` elements of an operand is rounded by. See ``gradient_draws``."""
    low, high, step, member = draw_key(draws, numbers, tensor)
    stream: tl.constexpr = ROUNDING_STREAM + operand // 2
    if in_parts:
        element = in_whole(tensor, first + tl.arange(0, count))
        lane0, lane1, lane2, lane3 = philox.words_of(low, high, step, member, element // philox.LANES, stream)
        word = philox.lane_of(element, lane0, lane1, lane2, lane3)
    else:
        lane0, lane1, lane2, lane3 = philox.words(low, high, step, member, first, stream, count)
        word = philox.by_element(lane0, lane1, lane2, lane3)
    return (word >> (16 * (operand % 2))) & 0xFFFF


@triton.jit
def scale_of(absmax):
    """What 1 on the map of codes stands for in a block. See ``csrc/codecs.h``."""
    exact = tl.where((absmax > 0) & (absmax < LEAST_ABSMAX), LEAST_ABSMAX, absmax) * BY_LAST_STEP
    rounded = ((exact.to(tl.int32, bitcast=True) + 0x40) & ~0x7F).to(tl.float32, bitcast=True)
    return tl.where(exact < BEHIND_MOST_SCALE, rounded, exact + float("inf"))


@triton.jit
def encode(value, scale, is_signed: tl.constexpr):
    """The code, uint8, of a value."""
    halvings: tl.constexpr = 1 if is_signed else 2
    has_inverse = (scale > 0) & (scale < float("inf"))
    inverse = quotient(tl.where(has_inverse, 1.0, 0.0), tl.where(has_inverse, scale, 1.0))
    bits = tl.abs(value * inverse).to(tl.int32, bitcast=True)
    root = ((bits >> halvings) + (ONE - (ONE >> halvings))).to(tl.float32, bitcast=True)
    if is_signed:
        step = tl.where(value < 0, -root, root) + SIGNED_ROUNDER
    else:  # what is above zero divides, and stays above
        step = tl.where(value > 0, tl.maximum(root, UNSIGNED_STEP), 0.0) + UNSIGNED_ROUNDER
    return tl.where(has_inverse, step.to(tl.int32, bitcast=True), 0).to(tl.uint8)


@triton.jit
def decode(code, scale, is_signed: tl.constexpr):
    """The value of a code, uint8."""
    halvings: tl.constexpr = 1 if is_signed else 2
    steps: tl.constexpr = 7 if is_signed else 8  # their logarithm
    step = code.to(tl.int8, bitcast=True).to(tl.float32) if is_signed else code.to(tl.float32)
    bits = tl.abs(step).to(tl.int32, bitcast=True) - (ONE - (ONE >> halvings) + (steps << 23))
    size = (tl.where(bits > 0, bits, 0) << halvings).to(tl.float32, bitcast=True) * scale  # of 0, 0
    return tl.where(step < 0, -size, size) if is_signed else size


@triton.jit
def scale_of_blocks(value, mask, count: tl.constexpr):
    """The scale of each block of ``count`` elements, [count / BLOCK]: not finite where there is a NaN, whose bits are
    larger than those of any number."""
    bits = tl.where(mask, value.to(tl.int32, bitcast=True) & MAGNITUDE, 0)
    largest = tl.max(tl.reshape(bits, [count // BLOCK, BLOCK]), 1)
    return scale_of(largest.to(tl.float32, bitcast=True))


@triton.jit
def of_each_element(scale, count: tl.constexpr):
    """[count] from [count / BLOCK]."""
    return tl.reshape(tl.broadcast_to(tl.expand_dims(scale, 1), [count // BLOCK, BLOCK]), [count])


@triton.jit
def beside_places(beside, tensor, begin, offsets, dtype: tl.constexpr, access: tl.constexpr):
    """Where what is kept beside a parameter lies; its strides stand behind those of the operands."""
    return places_of(tl.load(beside + BESIDE_PARAMETER), tensor, OPERANDS, begin, offsets, dtype, access)


@triton.jit
def read_parameter(tensor, beside, begin, offsets, mask, run: tl.constexpr, access: tl.constexpr):
    """Elements of the parameter in the compute type; see ``read``.

    Args:
        beside: the tensor's row in the table of what is kept beside operands; not looked at without a policy.
    """
    if run.form == MASTER:
        return tl.load(beside_places(beside, tensor, begin, offsets, FLOAT32, access), mask, 0.0)
    address = tl.load(tensor + PARAMETER)
    if run.form == SPLIT:
        high = tl.load(places_of(address, tensor, PARAMETER, begin, offsets, BFLOAT16, access), mask, 0)
        low = tl.load(beside_places(beside, tensor, begin, offsets, BFLOAT16, access), mask, 0)
        return join(high, low.to(tl.int16, bitcast=True))
    return read(address, tensor, PARAMETER, begin, offsets, mask, run.parameter_dtype, access)


@triton.jit
def read_slot(
    tensor,
    beside,
    slot: tl.constexpr,
    begin,
    offsets,
    mask,
    form: tl.constexpr,
    dtype: tl.constexpr,
    access: tl.constexpr,
):
    """Elements of a state slot in the compute type; see ``read_parameter``.

    Args:
        form, dtype: the slot's.
    """
    address = tl.load(tensor + STATE + slot)
    if form >= BLOCKS:
        codes = tl.load(places_of(address, tensor, STATE + slot, begin, offsets, BYTE, access), mask, 0)
        absmax = tl.load(beside + BESIDE_ABSMAX + slot).to(tl.pointer_type(tl.float32))
        scale = tl.load(absmax + (begin + offsets) // BLOCK, mask, 0.0)
        return decode(codes, scale_of(scale), form == BLOCKS)
    return read(address, tensor, STATE + slot, begin, offsets, mask, dtype, access)


@triton.jit
def encoded_parameter(value, bits, run: tl.constexpr):
    """The parameter as its own tensor holds it."""
    if run.form == SPLIT:
        return upper_part(value)
    elif run.form == STOCHASTIC:
        return stochastic(value, bits)
    else:
        return narrow(value, run.parameter_dtype)


@triton.jit
def write_beside(value, tensor, beside, begin, offsets, mask, run: tl.constexpr, access: tl.constexpr):
    """What is kept beside the parameter."""
    if run.form == SPLIT:
        low = lower_part(value).to(tl.uint16, bitcast=True)
        tl.store(beside_places(beside, tensor, begin, offsets, BFLOAT16, access), low, mask)
    if run.form == MASTER:
        tl.store(beside_places(beside, tensor, begin, offsets, FLOAT32, access), value, mask)


@triton.jit
def write_slot(
    value,
    tensor,
    beside,
    slot: tl.constexpr,
    begin,
    offsets,
    mask,
    key,
    first,
    form: tl.constexpr,
    dtype: tl.constexpr,
    access: tl.constexpr,
    count: tl.constexpr,
    in_parts: tl.constexpr,
):
    """The counterpart of ``read_slot``, of ``count`` neighbours from ``first`` on, whole blocks where there are codes.

    Args:
        key: the draws' numbers and those of the step.
        in_parts: see ``gradient_draws``.
    """
    places = places_of(
        tl.load(tensor + STATE + slot), tensor, STATE + slot, begin, offsets,
        BYTE if form >= BLOCKS else dtype, access,
    )  # fmt: skip
    if form >= BLOCKS:
        scale = scale_of_blocks(value, mask, count)
        tl.store(places, encode(value, of_each_element(scale, count), form == BLOCKS), mask)
        block = (begin + first) // BLOCK + tl.arange(0, count // BLOCK)
        kept = tl.load(beside + BESIDE_ABSMAX + slot).to(tl.pointer_type(tl.float32))
        first_of_each = tl.min(tl.reshape(tl.where(mask, 0, 1), [count // BLOCK, BLOCK]), 1)
        tl.store(kept + block, scale * LAST_STEP, first_of_each == 0)
    elif form == STOCHASTIC:
        draws, numbers = key
        bits = rounding_bits(draws, numbers, tensor, begin + first, slot + 1, count, in_parts)
        tl.store(places, stochastic(value, bits), mask)
    else:
        tl.store(places, narrow(value, dtype), mask)
