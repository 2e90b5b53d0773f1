r"""Philox4x32-10, the counter-based generator of every random draw, in torch integer operations.

One round maps the counter :math:`(c_0, c_1, c_2, c_3)` with the key :math:`(k_0, k_1)` to

.. math::
    (\mathrm{hi}(M_1 c_2) \oplus c_1 \oplus k_0,\; \mathrm{lo}(M_1 c_2),\;
     \mathrm{hi}(M_0 c_0) \oplus c_3 \oplus k_1,\; \mathrm{lo}(M_0 c_0))

and the key then grows by :math:`(W_0, W_1)` modulo :math:`2^{32}`; ten rounds make one draw of four words.

Source: Salmon, Moraes, Dror, Shaw, Parallel Random Numbers: As Easy as 1, 2, 3, SC 2011, section 3.3; the constants
are those of the Random123 library.
"""

from __future__ import annotations

from torch import Tensor

WORD = 0xFFFFFFFF
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10

Counter = tuple[Tensor, Tensor, Tensor, Tensor]
Word = int | Tensor


def key_of_seed(seed: Word) -> tuple[Word, Word]:
    """The key (low word, high word) of a 64-bit seed; a negative seed counts as its two's complement.

    Example:
        >>> key_of_seed(-1) == (0xFFFFFFFF, 0xFFFFFFFF)
        True
    """
    return seed & WORD, (seed >> 32) & WORD


def philox4x32(key: tuple[Word, Word], counter: Counter) -> Counter:
    """Four random 32-bit words for each counter.

    Args:
        key: two words in [0, 2**32).
        counter: four int64 tensors of words in [0, 2**32), of shapes that broadcast together.

    Returns:
        Four int64 tensors of words in [0, 2**32).

    Example:
        >>> import torch
        >>> zero = torch.zeros((), dtype=torch.int64)
        >>> [hex(int(word)) for word in philox4x32((0, 0), (zero, zero, zero, zero))]
        ['0x6627e8d5', '0xe169c58d', '0xbc57ac4c', '0x9b00dbd8']
    """
    k0, k1 = key
    c0, c1, c2, c3 = counter
    for _ in range(ROUNDS):
        high0, low0 = _product(MULTIPLIERS[0], c0)
        high1, low1 = _product(MULTIPLIERS[1], c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + WEYL[0]) & WORD, (k1 + WEYL[1]) & WORD
    return c0, c1, c2, c3


def _product(multiplier: int, word: Tensor) -> tuple[Tensor, Tensor]:
    """The high and the low word of ``multiplier * word``.

    The 64-bit product would run into the sign of int64; that with the multiplier less 2**32, which is above -2**30,
    has the same low word, and a high word that is smaller by ``word``.
    """
    product = (multiplier - (WORD + 1)) * word
    return (product >> 32) + word, product & WORD
