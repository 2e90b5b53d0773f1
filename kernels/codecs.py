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
CODES = tl.constexpr(256)


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
def values_of(maps, is_signed: tl.constexpr):
    """Where the values of codes stand: float32 [256], ascending; behind them what lies between neighbours."""
    return maps + (2 * CODES if is_signed else 0)


@triton.jit
def nearest_code(maps, value, absmax, is_signed: tl.constexpr):
    """The code, uint8, of the nearest value, of two equally near ones the lower; the last one for what is NaN by the
    absmax, as in torch.bucketize."""
    scaled = quotient(value, tl.where(absmax > 0, absmax, 1.0))
    middles = values_of(maps, is_signed) + CODES
    code = tl.zeros(value.shape, tl.int32)
    for bit in tl.static_range(8):  # of how many lie below
        code += tl.where(tl.load(middles + code + ((128 >> bit) - 1)) < scaled, 128 >> bit, 0)
    if not is_signed:  # what is above zero divides, and stays above
        code = tl.where((code == 0) & (value > 0), 1, code)
    return tl.where(scaled == scaled, code, CODES - 1).to(tl.uint8)


@triton.jit
def largest_of_blocks(value, mask, count: tl.constexpr):
    """The largest magnitude of each block of ``count`` elements, [count / BLOCK]: NaN where there is one, whose bits
    are larger than those of any number."""
    bits = tl.where(mask, value.to(tl.int32, bitcast=True) & MAGNITUDE, 0)
    return tl.max(tl.reshape(bits, [count // BLOCK, BLOCK]), 1).to(tl.float32, bitcast=True)


@triton.jit
def of_each_element(absmax, count: tl.constexpr):
    """[count] from [count / BLOCK]."""
    return tl.reshape(tl.broadcast_to(tl.expand_dims(absmax, 1), [count // BLOCK, BLOCK]), [count])


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
    maps,
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
        maps: see ``values_of``.
        form, dtype: the slot's.
    """
    address = tl.load(tensor + STATE + slot)
    if form >= BLOCKS:
        codes = tl.load(places_of(address, tensor, STATE + slot, begin, offsets, BYTE, access), mask, 0)
        absmax = tl.load(beside + BESIDE_ABSMAX + slot).to(tl.pointer_type(tl.float32))
        scale = tl.load(absmax + (begin + offsets) // BLOCK, mask, 0.0)
        return tl.load(values_of(maps, form == BLOCKS) + codes.to(tl.int32)) * scale
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
    maps,
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
        absmax = largest_of_blocks(value, mask, count)
        tl.store(places, nearest_code(maps, value, of_each_element(absmax, count), form == BLOCKS), mask)
        block = (begin + first) // BLOCK + tl.arange(0, count // BLOCK)
        kept = tl.load(beside + BESIDE_ABSMAX + slot).to(tl.pointer_type(tl.float32))
        first_of_each = tl.min(tl.reshape(tl.where(mask, 0, 1), [count // BLOCK, BLOCK]), 1)
        tl.store(kept + block, absmax, first_of_each == 0)
    elif form == STOCHASTIC:
        draws, numbers = key
        bits = rounding_bits(draws, numbers, tensor, begin + first, slot + 1, count, in_parts)
        tl.store(places, stochastic(value, bits), mask)
    else:
        tl.store(places, narrow(value, dtype), mask)
