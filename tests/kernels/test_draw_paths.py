"""The compiled draws on other processors than this one: every instruction set gives the same bits."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest
import torch

from instruction_sets import COMPILER, printed_by, runs_here
from places import TESTS
from torchclip.backends.reference.draws import normal_pair

# The sets that the library chooses between: without and with fused multiply-add, and with 512-bit vectors.
ARCHITECTURES = ("x86-64", "x86-64-v3", "x86-64-v4") if platform.machine() == "x86_64" else ("native",)


@pytest.mark.skipif(COMPILER is None, reason="no g++ on PATH")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_path_draws_the_same_bits(architecture: str, tmp_path: Path) -> None:
    if not runs_here(architecture):
        pytest.skip(f"this processor is not {architecture}")
    # Without the clones, whose choice cannot be told from outside, the whole file is for one instruction set.
    flags = [f"-march={architecture}", "-DTORCHCLIP_CLONES="]
    printed = printed_by(TESTS / "kernels" / "draw_paths.cpp", tmp_path, flags).split("\n")[:-1]
    assert not [line for line in printed if "differs" in line]
    words = torch.arange(len(printed)) * 0x9E3779B9 % 2**32
    expected = torch.stack(normal_pair(words[0::2], words[1::2]), dim=1).flatten().view(torch.int32)
    assert printed == [f"{bits & 0xFFFFFFFF:08x}" for bits in expected.tolist()]
