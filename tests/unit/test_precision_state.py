"""State under a precision policy between steps: what stays wide, and what steps that are not taken leave behind."""

from __future__ import annotations

import sys

import pytest
import torch

import torchclip
from torchclip import Blockwise8bit, Precision, SplitMaster

THRESHOLDS: dict[str, tuple[Precision, torch.dtype]] = {
    "largest_integer": (Blockwise8bit(min_elements=sys.maxsize), torch.float32),
    "more_bytes_than_there_are": (Blockwise8bit(min_elements=2**62), torch.float32),
    "larger_than_an_integer": (Blockwise8bit(min_elements=10**30), torch.float32),
    "within_another": (SplitMaster(state=Blockwise8bit(min_elements=10**30)), torch.float32),
    "rows": (Blockwise8bit(min_elements=0, embedding_rows=2**64), torch.uint8),
}


@pytest.mark.parametrize("policy, held", THRESHOLDS.values(), ids=THRESHOLDS)
def test_thresholds_beyond_every_tensor(policy: Precision, held: torch.dtype, backend: str) -> None:
    weight = torch.nn.Parameter(torch.ones(20, 30, dtype=torch.bfloat16))
    optimizer = torchclip.AdamW([weight], precision=policy, backend=backend)
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    assert optimizer.state[weight]["exp_avg"].dtype is held
