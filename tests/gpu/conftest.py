"""Tests of what a GPU alone can show: graphs, streams, waiting, launches. Without one they are skipped, and say why."""

from __future__ import annotations

import pytest
import torch

from gpu_runs import BACKEND
from torchclip.backends import native
from torchclip.backends.choice import unavailable_reason


def reason_to_skip() -> str | None:
    """Why these tests cannot run here."""
    if not torch.cuda.is_available():
        return "torch sees no GPU"
    if native.NATIVE is not None and native.NATIVE.cuda_device == "cpu":
        return "torchclip._C is built for the emulator"
    return unavailable_reason(BACKEND)


@pytest.fixture(autouse=True)
def _needs_a_gpu() -> None:
    reason = reason_to_skip()
    if reason is not None:
        pytest.skip(reason)
