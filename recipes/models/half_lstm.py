"""An LSTM in half precision on a processor for which oneDNN has none."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@functools.cache
def _has_lstm(dtype: torch.dtype) -> bool:
    """Whether oneDNN has an LSTM of this type for this processor; only one that is run tells."""
    try:
        with torch.random.fork_rng(devices=[]), torch.autocast("cpu", dtype):  # whose weights are drawn
            nn.LSTM(2, 2)(torch.zeros(1, 1, 2))
    except RuntimeError:
        return False
    return True


@contextmanager
def kernels_for(device: torch.device) -> Iterator[None]:
    """Meanwhile an LSTM under autocast runs on ``device``: through torch's own kernels where oneDNN has none."""
    if device.type != "cpu" or not torch.is_autocast_enabled("cpu") or _has_lstm(torch.get_autocast_dtype("cpu")):
        yield
    else:
        with torch.backends.mkldnn.flags(enabled=False):
            yield
