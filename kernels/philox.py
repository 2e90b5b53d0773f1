"""Philox4x32-10, the counterpart of ``csrc/philox.h`` (Salmon et al., SC 2011): the same draws, bit for bit.

Written out rather than taken from ``tl.philox``, whose counter layout is Triton's to change.
"""

from __future__ import annotations

import triton
import triton.language as tl

MULTIPLIER_0 = tl.constexpr(0xD2511F53)
MULTIPLIER_1 = tl.constexpr(0xCD9E8D57)
WEYL_0 = tl.constexpr(0x9E3779B9)
WEYL_1 = tl.constexpr(0xBB67AE85)
ROUNDS = tl.constexpr(10)


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
