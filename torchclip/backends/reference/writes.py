"""What a step writes, and whether it does."""

from __future__ import annotations

import torch
from torch import Tensor

from torchclip.state.sharded import PLAIN_TENSORS, is_wrapper

Writes = list[tuple[Tensor, Tensor]]
"""Tensors to be written when the step is taken, and their new values."""

Flag = bool | Tensor
"""Yes or no; a 0-dim boolean tensor in a compiled graph, which is to serve for both."""


def chosen(flag: Flag, value: Tensor, otherwise: Tensor) -> Tensor:
    """``value`` where the flag is set, else ``otherwise``."""
    if isinstance(flag, Tensor):
        return torch.where(flag.to(value.device), value, otherwise)
    return value if flag else otherwise


def write(target: Tensor, value: Tensor, taken: Flag) -> None:
    """Writes what a step has made, of as many elements as ``target``, a local view, where it is taken.

    Not as 0-dim tensors: torch's compiler drops what a graph writes to one of its float64 arguments on the CPU.
    """
    target, value = torch.atleast_1d(target), torch.atleast_1d(value)
    target.copy_(chosen(taken, value.view_as(target), target))


def write_together(writes: Writes, taken: Flag) -> None:
    """The same for a parameter and its state, in one operation where nothing is compiled or recorded; DTensor has none
    such."""
    is_plain = type(writes[0][0]) in PLAIN_TENSORS or not is_wrapper(writes[0][0])
    if not is_plain or torch.is_grad_enabled() or torch.compiler.is_compiling():
        for target, value in writes:
            write(target, value, taken)
        return
    targets, values = [], []
    for target, value in writes:
        value = value if value.shape == target.shape else value.reshape(target.shape)
        targets.append(target)
        values.append(chosen(taken, value, target) if isinstance(taken, Tensor) else value)
    torch._foreach_copy_(targets, values)
