r"""The random draws of a step: which element gets which word, and normal numbers from words.

Elements are numbered in memory order, so that a kernel that walks over memory draws four elements from one counter.
The normal numbers are those of Box and Muller,

.. math::
    r = \sqrt{-2 \ln u}, \qquad (r \cos 2\pi a,\; r \sin 2\pi a),

with polynomials in place of the library's logarithm, sine and cosine, whose last bits differ from one machine to the
next; they are off by a few parts in a hundred thousand at the most. Every operation is rounded to float32 by itself, so
that all backends draw the same bits.

Source: Box, Muller, A Note on the Generation of Random Normal Deviates, Annals of Mathematical Statistics 29, 1958.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from torchclip.backends.reference.philox import WORD, Counter, Word, key_of_seed, philox4x32
from torchclip.policies.extensions import NOISE_STREAM, drop_threshold
from torchclip.rules.norms import norm_dtype

# Minimax fits, from the highest power down: -2 ln(1 + x) / x for 1 + x in [sqrt(1/2), sqrt(2)], and sin(2 pi f) / f and
# cos(2 pi f) in f^2 for f in [-1/8, 1/8].
LOGARITHM = (-0.351214856, 0.546782613, -0.674429595, 0.998487413, -1.99985015)
SINE = (79.8259888, -41.3313179, 6.28317642)
COSINE = (62.9630013, -19.7276878, 0.999990046)
LOG_OF_FOUR = 1.3862944
BITS_OF_ROOT_HALF = 0x3F3504F3
MANTISSA = 0x7FFFFF


@dataclass(frozen=True)
class Draws:
    """The draws of one step.

    Args:
        seed: the key; an integer, or 0-dim and int64.
        step: the number of the step being taken: 1, 2, …; an integer, or 0-dim.
    """

    seed: Word
    step: Word

    def dropped(self, parameter: Tensor, index: int, stream: int, p: float, places: Tensor | None = None) -> Tensor:
        """Which elements are dropped, each with probability ``p``: booleans in the shape of the parameter.

        Args:
            parameter: its shape and strides number the elements.
            index: its position among the parameters of all groups.
            stream: what the draw is for.
            p: in [0, 1).
            places: where its elements are in the memory of the whole tensor, in its shape; None where it is whole.
        """
        words = torch.stack(self._words(parameter, index, places, stream), dim=-1)
        return _laid_out(words < drop_threshold(p), parameter, places)

    def normals(self, parameter: Tensor, index: int, places: Tensor | None = None) -> Tensor:
        """Standard normal numbers for the gradient noise: float32, in the shape of the parameter."""
        w0, w1, w2, w3 = self._words(parameter, index, places, NOISE_STREAM)
        lanes = torch.stack((*normal_pair(w0, w1), *normal_pair(w2, w3)), dim=-1)
        return _laid_out(lanes, parameter, places)

    def words(self, parameter: Tensor, index: int, stream: int, places: Tensor | None = None) -> Tensor:
        """A word for each element, for stochastic rounding: int64 in [0, 2**32), in the shape of the parameter; the
        arguments are those of :meth:`dropped`."""
        return _laid_out(torch.stack(self._words(parameter, index, places, stream), dim=-1), parameter, places)

    def _words(self, parameter: Tensor, index: int, places: Tensor | None, stream: int) -> Counter:
        """Four words for each four elements, each of shape [ceil(elements / 4)]; with ``places`` four words for each
        element, of which it takes one, each of its shape."""
        block = torch.arange((parameter.numel() + 3) // 4, dtype=torch.int64, device=parameter.device)
        if places is not None:
            block = places // 4
        step = torch.as_tensor(self.step, dtype=torch.int64, device=block.device) & WORD
        counter = (step.expand_as(block), torch.full_like(block, index), block & WORD, stream + ((block >> 32) << 8))
        seed = self.seed.to(block.device) if isinstance(self.seed, Tensor) else self.seed
        return philox4x32(key_of_seed(seed), counter)


def _laid_out(lanes: Tensor, parameter: Tensor, places: Tensor | None) -> Tensor:
    """One number for each element: in memory order, or by its place; ``lanes`` is [..., 4]."""
    if places is None:
        return in_memory_order(lanes.flatten(), parameter)
    return lanes.gather(-1, (places % 4).unsqueeze(-1)).squeeze(-1)


def in_memory_order(values: Tensor, parameter: Tensor) -> Tensor:
    """The first of ``values`` for the first element of the parameter in memory, and so on; in the parameter's shape.

    Args:
        values: [at least parameter.numel()].
        parameter: its dimensions are walked from the largest stride to the smallest.
    """
    strides = parameter.stride()
    order = sorted(range(parameter.ndim), key=lambda dimension: -strides[dimension])
    walked = values[: parameter.numel()].view([parameter.shape[dimension] for dimension in order])
    return walked.permute([order.index(dimension) for dimension in range(parameter.ndim)])


def normal_pair(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Two independent standard normal numbers from two words: float32, of their shape.

    Args:
        first, second: int64, words in [0, 2**32).
    """
    radius = _radius(first)
    x, y = _unit_vector(second)
    return radius * x, radius * y


def _radius(word: Tensor) -> Tensor:
    """sqrt(-2 ln u), u the upper 24 bits of the word as a fraction in (0, 1]."""
    bits = ((word >> 8) + 1).to(torch.float32).view(torch.int32)  # of 2^24 u = 2^(24 + e) (1 + x)
    above = bits - (BITS_OF_ROOT_HALF + (24 << 23))
    exponent = (above >> 23).to(torch.float32)
    x = ((above & MANTISSA) + BITS_OF_ROOT_HALF).view(torch.float32) - 1.0
    squared = exponent * -LOG_OF_FOUR + x * _polynomial(LOGARITHM, x)
    # torch's own root of float32 numbers is off by a bit for one in six of them, where it comes from a vector library.
    return squared.to(norm_dtype(word.device)).sqrt().to(torch.float32)


def _unit_vector(word: Tensor) -> tuple[Tensor, Tensor]:
    """A point on the unit circle.

    The upper 24 bits, a signed fraction of a quarter of a turn, turn it away from (1, 0); bit 1 mirrors it, and bit 0
    exchanges its coordinates.
    """
    signed = torch.where(word >= 2**31, word - 2**32, word)
    turn = (signed >> 8).to(torch.float32) * 2.0**-26
    squared = turn * turn
    sine, cosine = turn * _polynomial(SINE, squared), _polynomial(COSINE, squared)
    cosine = torch.where((word & 2) == 2, -cosine, cosine)
    exchanged = (word & 1) == 1
    return torch.where(exchanged, sine, cosine), torch.where(exchanged, cosine, sine)


def _polynomial(coefficients: Sequence[float], x: Tensor) -> Tensor:
    """Horner's scheme; torch's separate calls keep products and sums from being fused."""
    value = x * coefficients[0] + coefficients[1]
    for coefficient in coefficients[2:]:
        value = value * x + coefficient
    return value
