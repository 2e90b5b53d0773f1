"""The random draws of the extensions: known answers, their statistics, and which element gets which.

Bounds on a statistic are five times its sampling error, in closed form: a right generator fails such a test for one
seed in two million, and the seeds are fixed. Correlations of n independent pairs have an error of 1/sqrt(n).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

import torchclip
from torchclip.backends.reference.draws import Draws, in_memory_order, normal_pair
from torchclip.backends.reference.philox import key_of_seed, philox4x32
from torchclip.policies.extensions import (
    GRADIENT_DROPOUT_STREAM,
    LR_DROPOUT_STREAM,
    NOISE_STREAM,
    GradientDropout,
    GradientNoise,
    LRDropout,
    drop_threshold,
)

SIGMAS = 5.0
N = 400_000
ONE = np.float32(1)
STREAMS = (GRADIENT_DROPOUT_STREAM, LR_DROPOUT_STREAM)


def zeros(count: int = N) -> Tensor:
    return torch.zeros(count)


@functools.lru_cache
def normals(seed: int = 1, step: int = 1, index: int = 0, count: int = N) -> Tensor:
    return Draws(seed, step).normals(zeros(count), index).double()


@functools.lru_cache
def masks(p: float, seed: int = 1, step: int = 1, index: int = 0, stream: int = GRADIENT_DROPOUT_STREAM) -> Tensor:
    return Draws(seed, step).dropped(zeros(), index, stream, p).double()


def numpy_normals(w0: int, w1: int) -> tuple[np.float32, np.float32]:
    """One pair in numpy's float32 numbers, which round after every operation."""

    def horner(coefficients: tuple[float, ...], x: np.float32) -> np.float32:
        value = np.float32(coefficients[0])
        for coefficient in coefficients[1:]:
            value = np.float32(np.float32(value * x) + np.float32(coefficient))
        return value

    bits = int(np.float32((w0 >> 8) + 1).view(np.int32))
    above = bits - 0x3F3504F3 - (24 << 23)
    e = above >> 23
    x = np.int32((above & 0x7FFFFF) + 0x3F3504F3).view(np.float32) - ONE
    log = (-0.351214856, 0.546782613, -0.674429595, 0.998487413, -1.99985015)
    r = np.sqrt(np.float32(np.float32(e) * np.float32(-1.3862944)) + np.float32(x * horner(log, x)))
    f = np.float32(np.uint32(w1).view(np.int32) >> 8) * np.float32(2.0**-26)
    s = f * horner((79.8259888, -41.3313179, 6.28317642), f * f)
    c = horner((62.9630013, -19.7276878, 0.999990046), f * f)
    c = -c if w1 & 2 else c
    return (r * s, r * c) if w1 & 1 else (r * c, r * s)


EDGES = [0, 255, 256, 2**31, 2**32 - 1, 2**32 - 256, 2**29, 2**29 - 1, 3 << 29, 5 << 29, 7 << 29, 0xB504F333]


def test_normals_are_numpys_bit_for_bit() -> None:
    generator = np.random.default_rng(0)
    pairs = [(w0, w1) for w0 in EDGES for w1 in EDGES] + generator.integers(0, 2**32, (2000, 2)).tolist()
    ours = torch.stack(normal_pair(*(torch.tensor(words) for words in zip(*pairs))), dim=1)
    expected = np.array([numpy_normals(w0, w1) for w0, w1 in pairs])
    assert ours.dtype is torch.float32 and expected.dtype == np.float32
    np.testing.assert_array_equal(ours.numpy().view(np.int32), expected.view(np.int32))


def test_normals_are_those_of_the_exact_functions() -> None:
    """Up to the error of the polynomials, which are off by less than five parts in a hundred thousand."""
    generator = np.random.default_rng(1)
    w0, w1 = generator.integers(0, 2**32, (2, 100_000))
    radius = np.sqrt(-2 * np.log(((w0 >> 8) + 1) * 2.0**-24))
    angle = 2 * np.pi * (w1.astype(np.uint32).view(np.int32) >> 8) * 2.0**-26
    cosine, sine = np.where(w1 & 2, -1, 1) * np.cos(angle), np.sin(angle)
    exact = np.where(w1 & 1, sine, cosine), np.where(w1 & 1, cosine, sine)
    ours = normal_pair(torch.tensor(w0), torch.tensor(w1))
    for lane, coordinate in zip(ours, exact):
        assert float(np.abs(lane.numpy() - radius * coordinate).max() / np.abs(radius).max()) < 5e-5


def test_words_go_to_elements_by_the_documented_counter() -> None:
    """Element e of parameter 7 in step 2^32 + 3: lane e mod 4 of the counter (3, 7, e / 4, stream)."""
    seed, step, index = -5, 2**32 + 3, 7
    for stream in STREAMS:
        dropped = Draws(seed, step).dropped(zeros(11), index, stream, 0.5)
        for element in range(11):
            counter = tuple(torch.tensor(word) for word in (3, index, element // 4, stream))
            word = int(philox4x32(key_of_seed(seed), counter)[element % 4])
            assert bool(dropped[element]) == (word < 2**31)
    noise = Draws(seed, step).normals(zeros(11), index)
    for block in range(3):
        counter = tuple(torch.tensor(word) for word in (3, index, block, NOISE_STREAM))
        words = [int(word) for word in philox4x32(key_of_seed(seed), counter)]
        lanes = [*numpy_normals(*words[:2]), *numpy_normals(*words[2:])]
        assert noise[4 * block : 4 * block + 4].tolist() == lanes[: len(noise) - 4 * block]


@pytest.mark.parametrize("stream", STREAMS, ids=["gradient", "lr"])
@pytest.mark.parametrize("p", [0.0, 0.001, 0.1, 0.5, 0.999])
def test_dropout_frequency(p: float, stream: int) -> None:
    frequency = float(masks(p, stream=stream).mean())
    assert abs(frequency - p) <= SIGMAS * math.sqrt(p * (1 - p) / N)


def test_dropout_of_each_lane() -> None:
    """Each of the four words of a counter on its own."""
    for lane in range(4):
        frequency = float(masks(0.3)[lane::4].mean())
        assert abs(frequency - 0.3) < SIGMAS * math.sqrt(0.21 / (N / 4))


# The k-th sample moment of a normal has the variance (E x^2k - (E x^k)^2) / n: 1, 2, 15 and 105 - 9.
MOMENTS = {1: (0.0, 1.0), 2: (1.0, 2.0), 3: (0.0, 15.0), 4: (3.0, 96.0)}


@pytest.mark.parametrize("lane", [None, 0, 1, 2, 3], ids=lambda lane: "all" if lane is None else f"lane{lane}")
@pytest.mark.parametrize("moment", MOMENTS)
def test_moments_of_the_normals(moment: int, lane: int | None) -> None:
    drawn = normals() if lane is None else normals()[lane::4]
    mean, variance = MOMENTS[moment]
    assert abs(float((drawn**moment).mean()) - mean) < SIGMAS * math.sqrt(variance / len(drawn))


@pytest.mark.parametrize("bound", [-3.0, -2.0, -1.0, -0.1, 0.0, 0.5, 1.5, 3.0, 4.0])
def test_distribution_of_the_normals(bound: float) -> None:
    """How many lie above a bound, the tails included; four sigma leaves 13 of 400,000."""
    above = math.erfc(bound / math.sqrt(2)) / 2
    frequency = float((normals() > bound).double().mean())
    assert abs(frequency - above) < SIGMAS * math.sqrt(above * (1 - above) / N)


def test_the_largest_normal_is_that_of_24_bits() -> None:
    largest = normal_pair(torch.tensor(0), torch.tensor(0))[0]
    assert float(largest) == pytest.approx(math.sqrt(48 * math.log(2)), rel=5e-5)
    assert float(normals().abs().max()) < float(largest)


def correlation(one: Tensor, other: Tensor) -> float:
    return float(torch.corrcoef(torch.stack((one, other)))[0, 1])


PAIRS: dict[str, Callable[[Callable[..., Tensor]], tuple[Tensor, Tensor]]] = {
    **{
        f"elements-{lag}": lambda draw, lag=lag: (draw()[lag:], draw()[:-lag])
        for lag in (1, 2, 3, 4, 8, 256, 2**10, 2**18)
    },
    "tensors": lambda draw: (draw(index=0), draw(index=1)),
    "steps": lambda draw: (draw(step=1), draw(step=2)),
    "steps-tensors": lambda draw: (draw(step=1, index=2), draw(step=2, index=1)),
    "seeds": lambda draw: (draw(seed=1), draw(seed=2)),
    "high_words_of_seeds": lambda draw: (draw(seed=1), draw(seed=1 + 2**32)),
}


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_draws_are_independent(pair: Callable) -> None:
    draws = {"normals": normals, "squares": lambda **at: normals(**at) ** 2, "masks": lambda **at: masks(0.3, **at)}
    for name, draw in draws.items():
        one, other = pair(draw)
        assert abs(correlation(one, other)) < SIGMAS / math.sqrt(len(one)), name


def test_streams_are_independent() -> None:
    every = [normals(), normals() ** 2, *(masks(0.3, stream=stream) for stream in STREAMS)]
    for i, one in enumerate(every):
        for other in every[:i]:
            assert abs(correlation(one, other)) < SIGMAS / math.sqrt(N)


LAYOUTS: dict[str, tuple[Callable[[], Tensor], Callable[[Tensor], Tensor]]] = {
    "contiguous": (lambda: torch.zeros(2, 3, 4, 5), lambda drawn: drawn.view(2, 3, 4, 5)),
    "channels_last": (
        lambda: torch.zeros(2, 3, 4, 5).to(memory_format=torch.channels_last),
        lambda drawn: drawn.view(2, 4, 5, 3).permute(0, 3, 1, 2),
    ),
    "transposed": (lambda: torch.zeros(5, 4).t(), lambda drawn: drawn[:20].view(5, 4).t()),
    "gaps": (lambda: torch.zeros(4, 10)[:, ::2], lambda drawn: drawn[:20].view(4, 5)),
    "gaps-transposed": (lambda: torch.zeros(10, 4)[::2].t(), lambda drawn: drawn[:20].view(5, 4).t()),
    # Equal strides: the dimension of size 1 may stand anywhere.
    "size_one": (lambda: torch.zeros(4, 1, 5).transpose(0, 1), lambda drawn: drawn[:20].view(1, 4, 5)),
    "scalar": (lambda: torch.zeros(()), lambda drawn: drawn[0]),
    "empty": (lambda: torch.zeros(0, 3), lambda drawn: drawn[:0].view(0, 3)),
}


@pytest.mark.parametrize(("layout", "expected"), LAYOUTS.values(), ids=LAYOUTS)
def test_elements_are_numbered_in_memory_order(layout: Callable, expected: Callable) -> None:
    parameter, flat = layout(), zeros(120)
    assert torch.equal(in_memory_order(torch.arange(120), parameter), expected(torch.arange(120)))
    drawn = Draws(3, 2).normals(parameter, 1)
    assert torch.equal(drawn, expected(Draws(3, 2).normals(flat, 1)))
    dropped = Draws(3, 2).dropped(parameter, 1, LR_DROPOUT_STREAM, 0.5)
    assert torch.equal(dropped, expected(Draws(3, 2).dropped(flat, 1, LR_DROPOUT_STREAM, 0.5)))


def moved(extension: object, dtype: torch.dtype, gradient: float, seed: int = 9) -> Tensor:
    """How far a step of SGD with lr 1 moves the second of two parameters, in two groups, that start at 0."""
    params = [torch.nn.Parameter(torch.zeros(shape, dtype=dtype)) for shape in ((3,), (5, 7))]
    for param in params:
        param.grad = torch.full_like(param, gradient)
    groups = [{"params": [param]} for param in params]
    optimizer = torchclip.SGD(groups, lr=1.0, extensions=(extension,), seed=seed, backend="reference")
    optimizer.step()
    return -params[1].detach()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_what_an_optimizer_draws(dtype: torch.dtype) -> None:
    """The same in every type, from the seed, the first step and the second parameter."""
    draws, flat = Draws(9, 1), zeros(35)
    compute = torch.promote_types(dtype, torch.float32)
    noise = (draws.normals(flat, 1).to(compute) * math.sqrt(0.3)).to(dtype).view(5, 7)
    assert torch.equal(moved(GradientNoise(0.3), dtype, 0.0), noise)
    for extension, stream in ((GradientDropout(0.3), 1), (LRDropout(0.3), 2)):
        dropped = draws.dropped(flat, 1, stream, 0.3).view(5, 7)
        assert 0 < int(dropped.sum()) < 35
        assert torch.equal(moved(extension, dtype, 2.0) == 0, dropped)
    assert not torch.equal(moved(GradientNoise(), dtype, 0.0, seed=10), moved(GradientNoise(), dtype, 0.0))


@pytest.mark.parametrize("seed", [2**63, 2**64 - 1, -1, -(2**63)])
def test_seeds_of_64_bits(seed: int) -> None:
    noise = (Draws(seed, 1).normals(zeros(35), 1) * math.sqrt(0.3)).view(5, 7)
    assert torch.equal(moved(GradientNoise(0.3), torch.float32, 0.0, seed), noise)


def test_a_threshold_is_a_32_bit_word() -> None:
    """The largest word is kept, whatever p is below 1: no threshold of 32 bits lies above it."""
    assert [drop_threshold(p) for p in (0.0, 0.5, 1 - 2**-32, 1 - 2**-40)] == [0, 2**31, 2**32 - 1, 2**32 - 1]
