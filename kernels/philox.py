"""Philox4x32-10 (Salmon et al., SC 2011) and the draws made of it, bit for bit as ``csrc/philox.h`` and ``normal.h``.

The generator is written out rather than taken from ``tl.philox``, whose counter layout is Triton's to change.

An element's draw does not depend on the launch: the key is the seed, and the counter is (step, parameter index,
element / 4, stream). One call of the generator serves four elements, whose words are its four lanes.
"""

from __future__ import annotations

import triton
import triton.language as tl

MULTIPLIER_0 = tl.constexpr(0xD2511F53)
MULTIPLIER_1 = tl.constexpr(0xCD9E8D57)
WEYL_0 = tl.constexpr(0x9E3779B9)
WEYL_1 = tl.constexpr(0xBB67AE85)
ROUNDS = tl.constexpr(10)

# What a draw is for, as in torchclip/policies/extensions.py.
NOISE_STREAM = tl.constexpr(0)
GRADIENT_DROPOUT_STREAM = tl.constexpr(1)
LR_DROPOUT_STREAM = tl.constexpr(2)

LANES = tl.constexpr(4)
ROOT_HALF_BITS = tl.constexpr(0x3F3504F3)  # of sqrt(1/2) as float32
MANTISSA_BITS = tl.constexpr(23)
MANTISSA = tl.constexpr(0x7FFFFF)
EXPONENT_OF_24 = tl.constexpr(24 << 23)
QUARTER_UNIT = tl.constexpr(2.0**-26)  # a word's upper 24 bits, signed, are a multiple of it in [-1/8, 1/8)


@triton.jit
def philox4x32(key0, key1, counter0, counter1, counter2, counter3):
    """Four words for each counter; all arguments and results are uint32 (counters: blocks of one shape)."""
    key0 = key0.to(tl.uint32)
    key1 = key1.to(tl.uint32)
    for _ in tl.static_range(ROUNDS):
        product0 = counter0.to(tl.uint64) * MULTIPLIER_0
        product1 = counter2.to(tl.uint64) * MULTIPLIER_1
        counter0 = (product1 >> 32).to(tl.uint32) ^ counter1 ^ key0
        counter2 = (product0 >> 32).to(tl.uint32) ^ counter3 ^ key1
        counter1 = product1.to(tl.uint32)
        counter3 = product0.to(tl.uint32)
        key0 = (key0.to(tl.uint64) + WEYL_0).to(tl.uint32)
        key1 = (key1.to(tl.uint64) + WEYL_1).to(tl.uint32)
    return counter0, counter1, counter2, counter3


@triton.jit
def words_of(key0, key1, step, parameter_index, block, stream: tl.constexpr):
    """The four words of blocks of elements, int64, by number: those of ``words``."""
    counter0 = tl.full(block.shape, 0, tl.uint32) + tl.cast(step, tl.uint32)
    counter1 = tl.full(block.shape, 0, tl.uint32) + tl.cast(parameter_index, tl.uint32)
    # A stream takes one byte of the last word, and the blocks past 2**32 the others.
    counter3 = (((block >> 32) << 8) + stream).to(tl.uint32)
    return philox4x32(
        tl.cast(key0, tl.uint32), tl.cast(key1, tl.uint32), counter0, counter1, block.to(tl.uint32), counter3
    )


@triton.jit
def words(key0, key1, step, parameter_index, first_element, stream: tl.constexpr, count: tl.constexpr):
    """The words of ``count`` elements of a parameter, lane by lane: four blocks, uint32 [count / 4].

    Args:
        key0: the seed's lower half.
        key1: its upper half.
        step: the number of the step being taken: 1, 2, ...
        parameter_index: the position of the parameter in the optimizer.
        first_element: a multiple of 4, int64 where a parameter may have 2**31 elements or more.
        stream: what the draw is for.
        count: a power of two, at least 4.
    """
    block = tl.cast(first_element, tl.int64) // LANES + tl.arange(0, count // LANES)
    return words_of(key0, key1, step, parameter_index, block, stream)


@triton.jit
def lane_of(element, lane0, lane1, lane2, lane3):
    """Of the numbers of each element's block, its own."""
    lane = element % LANES
    return tl.where(lane < 2, tl.where(lane == 0, lane0, lane1), tl.where(lane == 2, lane2, lane3))


@triton.jit
def by_element(lane0, lane1, lane2, lane3):
    """One block with the numbers of four lanes in the order of the elements: [4 n] from [n]."""
    return tl.interleave(tl.interleave(lane0, lane2), tl.interleave(lane1, lane3))


@triton.jit
def keep(key0, key1, step, parameter_index, first_element, threshold, stream: tl.constexpr, count: tl.constexpr):
    """Which of ``count`` elements a dropout keeps: those whose word is not below its ``drop_threshold``.

    The arguments are those of ``words``.
    """
    lane0, lane1, lane2, lane3 = words(key0, key1, step, parameter_index, first_element, stream, count)
    return by_element(lane0, lane1, lane2, lane3) >= tl.cast(threshold, tl.uint32)


@triton.jit
def keep_at(key0, key1, step, parameter_index, element, threshold, stream: tl.constexpr):
    """``keep`` for a block of elements, int64, that need not follow one another."""
    lane0, lane1, lane2, lane3 = words_of(key0, key1, step, parameter_index, element // LANES, stream)
    return lane_of(element, lane0, lane1, lane2, lane3) >= tl.cast(threshold, tl.uint32)


@triton.jit
def normal(key0, key1, step, parameter_index, first_element, count: tl.constexpr):
    """A standard normal number, float32, for each of ``count`` elements; the arguments are those of ``words``.

    Every product and every sum is rounded for itself, as on the other backends. A fused multiply-add would change the
    last bits: the launch must pass ``enable_fp_fusion=False``.
    """
    word0, word1, word2, word3 = words(key0, key1, step, parameter_index, first_element, NOISE_STREAM, count)
    lane0, lane1 = box_muller(word0, word1)
    lane2, lane3 = box_muller(word2, word3)
    return by_element(lane0, lane1, lane2, lane3)


@triton.jit
def normal_at(key0, key1, step, parameter_index, element):
    """``normal`` for a block of elements, int64, that need not follow one another."""
    word0, word1, word2, word3 = words_of(key0, key1, step, parameter_index, element // LANES, NOISE_STREAM)
    lane0, lane1 = box_muller(word0, word1)
    lane2, lane3 = box_muller(word2, word3)
    return lane_of(element, lane0, lane1, lane2, lane3)


@triton.jit
def box_muller(radius_word, angle_word):
    """Two independent standard normal numbers, float32, from two words: r cos(a) and r sin(a) with r = sqrt(-2 ln u).

    Box, Muller, A Note on the Generation of Random Normal Deviates, Annals of Mathematical Statistics, 1958. Logarithm,
    sine and cosine are polynomials, because every backend has its own library's.
    """
    radius = root_of_logarithm(radius_word)
    # Within an eighth of a turn of (1, 0) by the upper 24 bits, mirrored by bit 1, coordinates exchanged by bit 0.
    turn = (angle_word.to(tl.int32, bitcast=True) >> 8).to(tl.float32) * QUARTER_UNIT
    z = turn * turn
    sine = turn * ((79.8259888 * z - 41.3313179) * z + 6.28317642)
    cosine = (62.9630013 * z - 19.7276878) * z + 0.999990046
    cosine = tl.where((angle_word & 2) != 0, -cosine, cosine)
    exchanged = (angle_word & 1) != 0
    return radius * tl.where(exchanged, sine, cosine), radius * tl.where(exchanged, cosine, sine)


@triton.jit
def root_of_logarithm(word):
    """sqrt(-2 ln u), float32, for u in (0, 1] from the upper 24 bits of ``word``.

    u = 2^e (1 + x) with 1 + x in [sqrt(1/2), sqrt(2)), and -2 ln(1 + x) / x is a polynomial.
    """
    bits = ((word >> 8).to(tl.int32) + 1).to(tl.float32).to(tl.int32, bitcast=True)  # of 2^24 u
    above = bits - (ROOT_HALF_BITS + EXPONENT_OF_24)
    exponent = (above >> MANTISSA_BITS).to(tl.float32)
    x = ((above & MANTISSA) + ROOT_HALF_BITS).to(tl.float32, bitcast=True) - 1.0
    q = -0.351214856 * x + 0.546782613
    q = q * x - 0.674429595
    q = q * x + 0.998487413
    q = q * x - 1.99985015
    # Correctly rounded: tl.sqrt is an approximation on a GPU.
    return tl.sqrt_rn(exponent * -1.3862944 + x * q)
