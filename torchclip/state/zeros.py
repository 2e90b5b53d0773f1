"""Counting exact zeros."""

from __future__ import annotations

import torch
from torch import Tensor

from torchclip.state.sharded import is_wrapper

COUNTED_AT_ONCE = 1 << 20
"""Elements whose zeros may be counted with a temporary for them all."""


def zeros_in(parameter: Tensor) -> Tensor:
    """How many elements are exactly zero, 0-dim; in pieces, which need no memory the size of the parameter."""
    if is_wrapper(parameter):
        return (parameter == 0).sum()
    if parameter.numel() <= COUNTED_AT_ONCE:  # without one on the CPU, where a sum would make int64 numbers first
        return parameter.numel() - torch.count_nonzero(parameter)
    longest = max(range(parameter.ndim), key=parameter.size)
    pieces = parameter.chunk(min(-(-parameter.numel() // COUNTED_AT_ONCE), parameter.size(longest)), longest)
    return torch.stack([zeros_in(piece) for piece in pieces]).sum()
