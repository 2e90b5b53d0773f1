"""Codecs of the reference path: every bfloat16 number, every 8-bit code, and the mean of stochastic rounding."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from torchclip.backends.reference import codecs
from torchclip.backends.reference.draws import Draws
from torchclip.policies.precision.codec import BLOCK, ROUNDING_STREAM

EVERY_BFLOAT16 = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)

AWKWARD = torch.tensor(
    [
        *(0x00000000, 0x80000000, 0x00000001, 0x80007FFF, 0x00008000, 0x7F7FFFFF, 0xFF7FFFFF, 0x7F7F7FFF, 0x7F7F8000),
        *(0x7F800000, 0xFF800000, 0x3F808000, 0x3F818000, 0xBF808000, 0x3F7FFFFF),
    ],
    dtype=torch.int64,
)
"""Bits of float32: zeros, numbers below the normal ones, the largest, infinities, ties, and a carry to the exponent."""

NANS = torch.tensor([0x7FC00000, 0xFFC00000, 0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001], dtype=torch.int64)


def floats(bits: Tensor) -> Tensor:
    return bits.to(torch.int32).view(torch.float32)


def same_bits(left: Tensor, right: Tensor) -> bool:
    kind = {2: torch.int16, 4: torch.int32}[left.element_size()]
    return torch.equal(left.view(kind), right.view(kind))


def random_floats(count: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    bits = torch.randint(0, 2**32, (count,), generator=generator)
    return floats(torch.cat([bits, AWKWARD]))


def test_a_split_value_is_joined_exactly() -> None:
    values = random_floats(200_000)
    values = values[~values.isnan()]
    high, low = codecs.split(values)
    assert high.dtype is torch.bfloat16 and low.dtype is torch.int16
    assert same_bits(codecs.join(high, low), values)


def test_the_parameter_of_a_split_value_is_the_nearest_bfloat16() -> None:
    values = random_floats(50_000)
    values = values[~values.isnan()]
    bits = values.view(torch.int32).to(torch.int64) & 0xFFFFFFFF
    is_tie = (bits & 0xFFFF) == 0x8000
    high, _ = codecs.split(values)
    assert same_bits(high[~is_tie], values[~is_tie].bfloat16())
    away = (((bits[is_tie] >> 16) + 1) << 16).to(torch.int32).view(torch.float32).bfloat16()
    assert is_tie.sum() >= 4 and same_bits(high[is_tie], away)


def test_every_bfloat16_is_split_without_a_remainder() -> None:
    numbers = EVERY_BFLOAT16[~EVERY_BFLOAT16.isnan()]
    high, low = codecs.split(numbers.float())
    assert same_bits(high, numbers) and not low.any()
    assert same_bits(codecs.join(numbers, torch.zeros_like(low)), numbers.float())


@pytest.mark.parametrize("remainder", [-(2**15), -5, -1, 1, 5, 2**15 - 1])
def test_a_remainder_left_behind_makes_no_other_kind_of_number(remainder: int) -> None:
    """Of a parameter that something else has written: 0 stays finite and tiny, infinity and NaN stay what they are."""
    joined = codecs.join(EVERY_BFLOAT16, torch.full(EVERY_BFLOAT16.shape, remainder, dtype=torch.int16))
    assert torch.equal(joined.isnan(), EVERY_BFLOAT16.isnan())
    zeros = joined[EVERY_BFLOAT16 == 0]
    assert zeros.abs().max() < 2.0**-126
    is_infinite = EVERY_BFLOAT16.isinf()
    largest = torch.finfo(torch.float32).max
    assert joined[is_infinite].isinf().all() or (remainder < 0 and joined[is_infinite].abs().min() > 0.99 * largest)


def test_nans_stay_nans() -> None:
    values = floats(NANS)
    high, low = codecs.split(values)
    assert high.isnan().all() and codecs.join(high, low).isnan().all()
    for bits in (0, 2**16 - 1):
        assert codecs.stochastic_bfloat16(values, torch.full(values.shape, bits)).isnan().all()


def test_every_bfloat16_is_rounded_to_itself() -> None:
    """Whatever the bits."""
    numbers = EVERY_BFLOAT16[~EVERY_BFLOAT16.isnan()]
    for bits in (0, 1, 2**15, 2**16 - 1):
        assert same_bits(codecs.stochastic_bfloat16(numbers.float(), torch.full(numbers.shape, bits)), numbers)


@pytest.mark.parametrize("above", [0, 1, 0x1234, 0x8000, 0xFFFF], ids=hex)
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_share_of_all_bits_rounds_away_from_zero(above: int, sign: float) -> None:
    """Exactly as many of the 65,536 as there are units between the value and its neighbour below."""
    value = sign * floats(torch.tensor([0x3FC00000 + above]))
    rounded = codecs.stochastic_bfloat16(value.expand(2**16).contiguous(), torch.arange(2**16)).float().abs()
    assert int((rounded > 1.5).sum()) == above
    assert set(rounded.tolist()) <= {1.5, 1.5 + 2.0**-7}


def test_the_mean_of_a_million_draws_is_the_value() -> None:
    """Within 4 σ, σ from the value's place between its neighbours; bits of the stream that optimizers draw from."""
    count, unit = 1_000_000, 2.0**-7
    value = torch.full((count,), 1.0 + 0.3 * unit)
    for number, stream in ((0, ROUNDING_STREAM), (1, ROUNDING_STREAM), (2, ROUNDING_STREAM + 1)):
        words = Draws(seed=5, step=3).words(value, 0, stream)
        bits = (words >> (16 * (number % 2))) & 0xFFFF
        share = float(((value - 1) / unit)[0])
        sigma = unit * math.sqrt(share * (1 - share) / count)
        mean = codecs.stochastic_bfloat16(value, bits).double().mean().item()
        assert abs(mean - float(value[0])) < 4 * sigma


def test_the_bits_of_two_operands_are_independent() -> None:
    """Lower and upper half of a word: their correlation over a million draws is within 4 σ of 0."""
    words = Draws(seed=5, step=3).words(torch.empty(1_000_000), 0, ROUNDING_STREAM)
    halves = torch.stack([words & 0xFFFF, words >> 16]).double()
    assert abs(torch.corrcoef(halves)[0, 1].item()) < 4 / 1000


def exact_power(root: float, halvings: int) -> float:
    """l^-1(2^halvings l(root)), in float64: l(2^e (1 + f)) = e + f is the piecewise linear logarithm."""
    fraction, exponent = math.frexp(root)
    logarithm = (exponent - 1 + 2 * fraction - 1) * 2**halvings
    return 2.0 ** math.floor(logarithm) * (1 + logarithm - math.floor(logarithm))


@pytest.mark.parametrize("is_signed", [True, False], ids=["signed", "unsigned"])
def test_the_map_is_that_of_the_equation(is_signed: bool) -> None:
    values = codecs.root_map(is_signed, torch.device("cpu")).tolist()
    steps, halvings = (128, 1) if is_signed else (256, 2)
    assert values[0] == 0.0
    for step in range(1, steps):
        assert values[step] == exact_power(step / steps, halvings)
        if is_signed:
            assert values[256 - step] == -values[step]


@pytest.mark.parametrize("is_signed", [True, False], ids=["signed", "unsigned"])
@pytest.mark.parametrize("absmax", [1.0, 3.7e-9, 1e-30, 2.5e30], ids=str)
def test_every_code_comes_back(is_signed: bool, absmax: float) -> None:
    """All that are made: -128 is none. The absmax is that of a scale of 17 bits, and stays what it is."""
    codes = torch.arange(256, dtype=torch.uint8)
    codes = codes[codes != 128] if is_signed else codes
    value = codecs.from_blocks(codes, torch.tensor([absmax]), is_signed=is_signed)
    again, kept = codecs.to_blocks(value, codes, is_signed=is_signed)
    assert torch.equal(again, codes)
    assert kept.item() == value.max().item() == pytest.approx(absmax, rel=2.0**-17)
    assert torch.equal(codecs.from_blocks(codes, kept, is_signed=is_signed), value)


def test_the_scale_of_an_absmax_that_is_kept_is_the_same() -> None:
    """Every float32 of one octave, whose scale does not have the last bits of its own."""
    absmax = (torch.arange(2**23, dtype=torch.int32) + 0x3F800000).view(torch.float32)
    scale = codecs.scale_of(absmax)
    assert torch.equal(codecs.scale_of(scale * codecs.LAST_STEP), scale)
    assert int((scale.view(torch.int32) & 0x7F).count_nonzero()) == 0


@pytest.mark.parametrize("is_signed", [True, False], ids=["signed", "unsigned"])
def test_a_value_takes_the_code_of_the_nearest_root(is_signed: bool) -> None:
    """By the equation in float64; next to the middle of two steps, either."""
    generator = torch.Generator().manual_seed(3)
    value = 10 ** -torch.empty(4, BLOCK).uniform_(0, 6, generator=generator)
    value[:, -1] = codecs.LAST_STEP  # so that each block's scale is 1
    codes, absmax = codecs.to_blocks(value, value, is_signed=is_signed)
    assert absmax.eq(codecs.LAST_STEP).all()
    steps, halvings = (128, 1) if is_signed else (256, 2)
    for each, code in zip(value.flatten().tolist(), codes.flatten().tolist(), strict=True):
        fraction, exponent = math.frexp(each)
        logarithm = (exponent - 1 + 2 * fraction - 1) / 2**halvings
        root = 2.0 ** math.floor(logarithm) * (1 + logarithm - math.floor(logarithm)) * steps
        assert abs(code - root) <= 0.5001 or (code == 1 and root < 0.5 and not is_signed)
    negative, _ = codecs.to_blocks(-value, value, is_signed=True)
    positive, _ = codecs.to_blocks(value, value, is_signed=True)
    assert torch.equal((negative.int() + positive.int()) % 256, torch.zeros(4, BLOCK, dtype=torch.int32))


def test_what_is_never_negative_does_not_become_zero() -> None:
    value = torch.full((BLOCK,), 1e-12)
    value[0], value[1] = 1.0, 0.0
    codes, absmax = codecs.to_blocks(value, value, is_signed=False)
    back = codecs.from_blocks(codes, absmax, is_signed=False)
    assert back[1] == 0 and (back[2:] > 0).all()


@pytest.mark.parametrize("shape", [(), (1,), (255,), (256,), (257,), (0, 3), (3, 5, 40)], ids=str)
def test_blocks_of_awkward_shapes(shape: tuple[int, ...]) -> None:
    value = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    codes, absmax = codecs.to_blocks(value, value, is_signed=True)
    back = codecs.from_blocks(codes, absmax, is_signed=True)
    assert codes.shape == back.shape == value.shape
    flat = value.flatten()
    largest = [part.abs().max().item() for part in flat.split(BLOCK) if part.numel()]
    assert absmax.tolist() == pytest.approx(largest, rel=2.0**-17)
    scale = absmax.repeat_interleave(BLOCK)[: flat.numel()].view(shape)
    assert ((back - value).abs() <= 0.0080 * scale).all()


def test_blocks_follow_the_memory_of_their_codes() -> None:
    value = torch.randn(4, 8, 5, 6).to(memory_format=torch.channels_last)
    codes, absmax = codecs.to_blocks(value, value, is_signed=True)
    plain, scale = codecs.to_blocks(value.permute(0, 2, 3, 1).contiguous(), torch.empty(4, 5, 6, 8), is_signed=True)
    assert torch.equal(codes.permute(0, 2, 3, 1), plain) and torch.equal(absmax, scale)


def test_a_linear_map_loses_second_moments() -> None:
    """Why the map is one of roots: both beside moments like Adam's, whose sizes within a block are decades apart."""
    generator = torch.Generator().manual_seed(3)
    scale = 10 ** (1.5 * torch.randn(64 * BLOCK, generator=generator)).float()
    second = (scale * torch.rand(scale.shape, generator=generator)) ** 2 + 1e-20
    codes, absmax = codecs.to_blocks(second, second, is_signed=False)
    of_roots = codecs.from_blocks(codes, absmax, is_signed=False)
    per_element = absmax.repeat_interleave(BLOCK)
    linear = (second / per_element * 255).round() / 255 * per_element
    assert (linear == 0).float().mean() > 0.1 and (of_roots > 0).all()
