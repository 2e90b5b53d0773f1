"""Sizes at which the work is cut up in another way: chunks of the largest size, and many parameters."""

from __future__ import annotations

import pytest
import torch

import torchclip
from builders import Pair

# Above 64 chunks of the largest size, and above the 8 million elements from which gRDA stores past the cache, with ends
# that are no whole chunk, block or vector.
LARGE = (65_536 * 122 + 1, 65_535, 2_047, 33)


# One for each functor: the rest is the same loops. Of gRDA in bfloat16 the accumulators are float32.
@pytest.mark.parametrize(
    "name, dtype",
    [(name, torch.float32) for name in ("adamw", "rmsprop", "mix_clip", "grda")] + [("grda", torch.bfloat16)],
)
def test_chunks_of_the_largest_size(name: str, dtype: torch.dtype) -> None:
    torch.set_num_threads(2)
    pair = Pair(name, "cpu", [torch.nn.Parameter(torch.randn(size, dtype=dtype)) for size in LARGE])
    for without in ((), (1,), ()):
        pair.step(without)


def test_stores_past_the_cache_end_with_their_tensor() -> None:
    """Of gRDA in bfloat16, whose accumulators are twice as wide as what it stores."""
    count = 8_000_000 + 2_047
    held = torch.full((count + 4_096,), 7.0, dtype=torch.bfloat16)
    param = torch.nn.Parameter(held[:count])
    param.grad = torch.ones_like(param)
    torchclip.GRDA([param], lr=0.5, c=0.0, backend="cpu").step()
    assert bool((param == 6.5).all()) and bool((held[count:] == 7.0).all())


@pytest.mark.parametrize("name, backend", [("sgd", "cpu"), ("adamw", "cpu"), ("adamw", "cuda")], indirect=["backend"])
def test_more_parameters_than_one_thread_refreshes(name: str, backend: str) -> None:
    torch.set_num_threads(2)
    count = 2 * 512 + 1  # members.cpp wakes a thread for each 512
    pair = Pair(name, backend, [torch.nn.Parameter(torch.randn(1 + index % 5)) for index in range(count)])
    for without in ((), tuple(range(0, count, 2)), (0, count - 1)):
        pair.step(without)
