"""More elements in one tensor than 32 bits count."""

from __future__ import annotations

import os

import pytest
import torch

import torchclip
from torchclip.backends.choice import unavailable_reason

pytestmark = pytest.mark.thorough

NUMEL = 2**31 + 1_000
GIB = 2**30


def free_memory() -> int:
    """Bytes that may be allocated."""
    with open("/proc/meminfo") as file:
        lines = dict(line.split(":") for line in file)
    return int(lines["MemAvailable"].split()[0]) * 1024


@pytest.mark.skipif(unavailable_reason("cpu") is not None, reason="the CPU passes are not built")
@pytest.mark.skipif(not os.path.exists("/proc/meminfo"), reason="free memory is read from /proc/meminfo")
def test_a_step_of_two_to_the_31_elements() -> None:
    """Every element of them moves, the norm is that of all, and the end is not that of the beginning."""
    if free_memory() < 16 * GIB:
        pytest.skip(f"{free_memory() / GIB:.0f} GiB of memory are free, and 16 are wanted")
    param = torch.nn.Parameter(torch.zeros(NUMEL, dtype=torch.bfloat16))
    param.grad = torch.ones(NUMEL, dtype=torch.bfloat16)
    param.grad[-1_000:] = 2.0
    optimizer = torchclip.SGD([param], lr=0.5, clip=1e9, backend="cpu")
    optimizer.step()
    for begin in range(0, NUMEL, 2**28):  # in pieces, which need little memory besides
        piece = param.detach()[begin : min(begin + 2**28, NUMEL - 1_000)]
        assert int((piece == -0.5).sum()) == piece.numel()
    assert bool((param.detach()[-1_000:] == -1.0).all())
    assert float(optimizer.grad_norm) == pytest.approx((2**31 + 4_000) ** 0.5, rel=1e-6)
