"""Correctly rounded roots and quotients, and powers in float64 without a library's.

The last bits of an optimizer's coefficients depend on the powers.

1 - beta^t loses as many digits as beta^t is close to 1, so the power must be right to the last bit. Whole exponents are
taken by repeated squaring of numbers kept as the sum of two, with Dekker's products.

Source: Dekker, A Floating-Point Technique for Extending the Available Precision, Numerische Mathematik 18, 1971.
"""

from __future__ import annotations

import triton
import triton.language as tl

SPLITTER = tl.constexpr(134217729.0)  # 2^27 + 1


MOST_COUNTED = tl.constexpr(9007199254740992.0)  # 2^53


@triton.jit
def whole(count):
    """The whole part of a count as int64, and 0 for what is none, from a damaged checkpoint say: it becomes an index,
    and a conversion of NaN could become any."""
    return tl.where((count >= 0) & (count <= MOST_COUNTED), count, 0.0).to(tl.int64)


@triton.jit
def halves(value):
    """Two float64 numbers of 26 bits each whose sum is ``value``."""
    scaled = value * SPLITTER
    upper = scaled - (scaled - value)
    return upper, value - upper


@triton.jit
def product(high, low, other_high, other_low):
    """The product of two numbers, each the sum of two: high and low part. Nothing may be fused here."""
    upper, lower = halves(high)
    other_upper, other_lower = halves(other_high)
    result = high * other_high
    error = ((upper * other_upper - result) + upper * other_lower + lower * other_upper) + lower * other_lower
    error = error + (high * other_low + low * other_high)
    total = result + error
    return total, error - (total - result)


@triton.jit
def whole_power(base, exponent):
    """base^exponent for base in [0, 1] and whole exponents of at least 0; float64 blocks.

    Args:
        base: float64.
        exponent: float64, up to 2^53.
    """
    left = whole(exponent)
    high = tl.full(base.shape, 1.0, tl.float64)
    low = tl.zeros_like(base)
    square = base
    square_low = tl.zeros_like(base)
    remaining = tl.max(left, 0)
    while remaining > 0:
        is_odd = left % 2 != 0
        new_high, new_low = product(high, low, square, square_low)
        high = tl.where(is_odd, new_high, high)
        low = tl.where(is_odd, new_low, low)
        square, square_low = product(square, square_low, square, square_low)
        left = left // 2
        remaining = remaining // 2
    return high + low


@triton.jit
def power(base, exponent):
    """base^exponent for base at least 0; float64 blocks. 0^0 is 1."""
    result = tl.exp(exponent * tl.log(tl.where(base > 0, base, 1.0)))
    return tl.where(base > 0, result, tl.where(exponent == 0, 1.0, 0.0))


@triton.jit
def root(value):
    """Correctly rounded, and not flushed to 0 where it is small: of float32 tl.sqrt is an approximation on a GPU."""
    if value.dtype == tl.float32:
        return tl.sqrt_rn(value)
    else:
        return tl.sqrt(value)


@triton.jit
def quotient(value, divisor):
    """Correctly rounded: of float32 a plain division is an approximation on a GPU."""
    if value.dtype == tl.float32:
        return tl.div_rn(value, divisor)
    else:
        return value / divisor
