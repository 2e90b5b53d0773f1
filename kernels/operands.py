"""Reading and writing the elements of tensors whose addresses stand in a table.

For 128 bits at a time Triton must see two things: that the address is a multiple of 16, and that a mask is the same for
all elements of such an access. The main part of a chunk is therefore a whole number of groups of ``GROUP`` elements;
the few behind it are read one by one.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .tables import (
    ALIGNED,
    BFLOAT16,
    BYTE,
    FLOAT16,
    FLOAT32,
    FLOAT64,
    STRIDED,
    TENSOR_DIMENSIONS,
    TENSOR_LAYOUT,
)

GROUP = tl.constexpr(8)  # 128 bits of half precision, and two counters of the generator

ROUNDING = tl.constexpr(0x7FFF)
QUIET_NAN = tl.constexpr(0x7FC0)


@triton.jit
def int32_at(struct, place: tl.constexpr):
    """The int32 number at a place of a struct, as int64."""
    return tl.load(struct.to(tl.pointer_type(tl.int32)) + place).to(tl.int64)


@triton.jit
def int32_of(structs, place: tl.constexpr, mask):
    """The same of a block of structs; 0 outside the mask."""
    return tl.load(structs.to(tl.pointer_type(tl.int32)) + place, mask, 0).to(tl.int64)


@triton.jit
def main_part(count, access: tl.constexpr, group: tl.constexpr = GROUP):
    """How many elements of a chunk are read by groups, or, where none can be, at all."""
    if access == ALIGNED:
        return count // group * group
    else:
        return count


@triton.jit
def narrow(value, dtype: tl.constexpr):
    """The value as it is stored: rounded to nearest, ties to even; bfloat16 as its bits."""
    if dtype == BFLOAT16:
        # Integers, because Triton's interpreter truncates.
        bits = value.to(tl.uint32, bitcast=True)
        rounded = (bits + (ROUNDING + ((bits >> 16) & 1))) >> 16
        return tl.where(value == value, rounded, QUIET_NAN).to(tl.uint16)
    elif dtype == FLOAT16:
        return value.to(tl.float16)
    else:
        return value


@triton.jit
def widen(stored, dtype: tl.constexpr):
    """What ``narrow`` made, in the type that is computed with."""
    if dtype == BFLOAT16:
        return (stored.to(tl.uint32) << 16).to(tl.float32, bitcast=True)
    elif dtype == FLOAT16:
        return stored.to(tl.float32)
    else:
        return stored


@triton.jit
def typed(address, dtype: tl.constexpr):
    """The address as a pointer to what is stored."""
    if dtype == BFLOAT16:
        return address.to(tl.pointer_type(tl.uint16))
    elif dtype == FLOAT16:
        return address.to(tl.pointer_type(tl.float16))
    elif dtype == FLOAT64:
        return address.to(tl.pointer_type(tl.float64))
    elif dtype == BYTE:
        return address.to(tl.pointer_type(tl.uint8))
    else:
        return address.to(tl.pointer_type(tl.float32))


@triton.jit
def places_of(address, tensor, operand: tl.constexpr, begin, offsets, dtype: tl.constexpr, access: tl.constexpr):
    """Pointers to elements ``begin + offsets`` of an operand.

    Args:
        address: of its first element.
        tensor: the tensor's row in the table.
        operand: by number.
        begin: int64.
        offsets: a block of integers.
        dtype: of what is stored.
        access: how it is reached.
    """
    if access == STRIDED:
        dimensions = int32_at(tensor, TENSOR_DIMENSIONS)
        layout = tl.load(tensor + TENSOR_LAYOUT).to(tl.pointer_type(tl.int64))
        rest = begin + offsets.to(tl.int64)
        place = tl.zeros_like(rest)
        for behind in range(dimensions):
            column = layout + (dimensions - 1 - behind)
            size = tl.load(column)
            place += rest % size * tl.load(column + (1 + operand) * dimensions)
            rest = rest // size
        return typed(address, dtype) + place
    else:
        first = typed(address, dtype) + begin
        if access == ALIGNED:
            first = tl.multiple_of(first, 16)
        return first + offsets


@triton.jit
def only_if(flag, mask):
    """The mask where a single number is not 0, and nothing of it where it is."""
    # A block is compared, and not the number: Triton's interpreter cannot spread a boolean.
    return mask & (tl.zeros(mask.shape, tl.int32) + flag != 0)


@triton.jit
def term(weight, value):
    """Their product. A weight of 0 leaves the term out: 0 times an infinite value would be a NaN.

    Args:
        weight: a number, or a block.
        value: a block.
    """
    weights = tl.zeros_like(value) + weight  # see ``only_if``
    return weight * tl.where(weights == 0, 0.0, value)


@triton.jit
def read_number(address, is_double, mask):
    """Numbers of state, float32 or float64, as float64; 0 where there is none."""
    double = tl.load(typed(address, FLOAT64), mask & (is_double != 0), 0.0)
    single = tl.load(typed(address, FLOAT32), mask & (is_double == 0), 0.0)
    return tl.where(is_double != 0, double, single.to(tl.float64))


@triton.jit
def write_number(address, is_double, value, mask):
    """The counterpart of ``read_number``."""
    tl.store(typed(address, FLOAT64), value, mask & (is_double != 0))
    tl.store(typed(address, FLOAT32), value.to(tl.float32), mask & (is_double == 0))
