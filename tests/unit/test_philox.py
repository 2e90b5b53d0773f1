"""The counter-based generator, against the known answers of Random123 and against the compiled text."""

from __future__ import annotations

import importlib
from types import ModuleType

import pytest
import torch

from torchclip.backends.reference.philox import WORD, key_of_seed, philox4x32


def compiled_extension() -> ModuleType | None:
    """``torchclip._C``, or None in a pure Python install; one that is there but does not load is an error."""
    try:
        return importlib.import_module("torchclip._C")
    except ModuleNotFoundError:
        return None


def words(*values: int) -> tuple[torch.Tensor, ...]:
    return tuple(torch.tensor(value, dtype=torch.int64) for value in values)


# kat_vectors of Random123: philox4x32 10.
KNOWN_ANSWERS = [
    pytest.param((0, 0), (0, 0, 0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8), id="zeros"),
    pytest.param((WORD, WORD), (WORD,) * 4, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD), id="ones"),
    pytest.param(
        (0xA4093822, 0x299F31D0),
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        id="pi",
    ),
]


@pytest.mark.parametrize(("key", "counter", "answer"), KNOWN_ANSWERS)
def test_known_answers(key: tuple[int, int], counter: tuple[int, ...], answer: tuple[int, ...]) -> None:
    assert tuple(int(word) for word in philox4x32(key, words(*counter))) == answer


def random_words(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 2**32, shape, generator=generator, dtype=torch.int64)


def test_counters_broadcast_and_each_draw_is_its_own() -> None:
    key = (0x9E3779B9, 7)
    elements = random_words((5, 1), 0)
    streams = random_words((3,), 1)
    step, parameter = words(12, 3)
    together = philox4x32(key, (step, parameter, elements, streams))
    assert [word.shape for word in together] == [torch.Size([5, 3])] * 4
    for row in range(5):
        for column in range(3):
            alone = philox4x32(key, (step, parameter, elements[row, 0], streams[column]))
            assert [int(word[row, column]) for word in together] == [int(word) for word in alone]


def test_words_stay_in_range_and_leave_the_counter_alone() -> None:
    counter = tuple(random_words((4096,), seed) for seed in range(4))
    before = [word.clone() for word in counter]
    for word in philox4x32((1, 2), counter):
        assert word.dtype is torch.int64
        assert int(word.min()) >= 0 and int(word.max()) <= WORD
        # The mean of 4096 uniform words has a standard deviation of 0.0045 of the range.
        assert abs(float(word.double().mean()) / WORD - 0.5) < 0.03
    assert all(torch.equal(word, old) for word, old in zip(counter, before, strict=True))


@pytest.mark.parametrize(
    ("seed", "key"),
    [
        pytest.param(0, (0, 0), id="zero"),
        pytest.param(0x299F31D0A4093822, (0xA4093822, 0x299F31D0), id="low_word_first"),
        pytest.param(-1, (WORD, WORD), id="minus_one"),
        pytest.param(-(2**63), (0, 0x80000000), id="smallest"),
    ],
)
def test_key_of_seed(seed: int, key: tuple[int, int]) -> None:
    assert key_of_seed(seed) == key


@pytest.mark.skipif(compiled_extension() is None, reason="a pure Python install has no torchclip._C")
@pytest.mark.parametrize("seed", [0, 1, -1, 0x299F31D0A4093822, -(2**63)])
def test_compiled_text_draws_the_same(seed: int) -> None:
    extension = compiled_extension()
    assert extension is not None
    counters = torch.cat([random_words((32, 4), 5), torch.tensor([[0] * 4, [WORD] * 4])])
    reference = torch.stack(philox4x32(key_of_seed(seed), counters.unbind(1)), dim=1)
    for counter, expected in zip(counters.tolist(), reference.tolist(), strict=True):
        assert list(extension.philox4x32(seed, *counter)) == expected
