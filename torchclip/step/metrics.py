"""Sparsity, and the optimizer in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from torchclip.backends.choice import holds_numbers
from torchclip.distributed.exchange import Exchange
from torchclip.distributed.layout import Layout
from torchclip.distributed.processes import outside_graphs
from torchclip.policies.modifiers import Modifiers
from torchclip.state.group_state import numbers_of
from torchclip.state.sharded import local_of
from torchclip.state.steppable import can_step, leading_device
from torchclip.state.zeros import zeros_in


@torch.no_grad()
def sparsity(
    param_groups: Sequence[Mapping[str, Any]], written: Sequence[int] | Tensor | None, layout: Layout | None = None
) -> Tensor:
    """The fraction of parameters that are exactly zero: a 0-dim float32 tensor in [0, 1].

    Frozen ones that hold no numbers as they are, quantised weights say, are left out.

    Args:
        param_groups: as in ``optimizer.param_groups``.
        written: [parameters], how many zeros a step has counted in each while writing it, -1 where it is counted here;
            or how many in all; or empty or None, when none has.
        layout: which processes hold what, all of which count theirs; None where this one holds everything.
    """
    parameters: list[Tensor] = [parameter for group in param_groups for parameter in group["params"]]
    counted = [can_step(parameter) or holds_numbers(parameter) for parameter in parameters]
    if layout is not None:
        return _sparsity_of_all(layout, counted, leading_device(param_groups))
    total = max(sum(parameter.numel() for parameter, counts in zip(parameters, counted, strict=True) if counts), 1)
    if isinstance(written, Tensor):
        return written.to(torch.float32) / total
    if written is None or len(written) != len(parameters):
        written = [-1] * len(parameters)
    device = leading_device(param_groups)
    each = [count for counts, count in zip(counted, written, strict=True) if counts]
    zeros = torch.full((), sum(count for count in each if count >= 0), dtype=torch.int64, device=device)
    for parameter, counts, count in zip(parameters, counted, written, strict=True):
        if counts and count < 0:
            zeros = zeros + zeros_in(local_of(parameter)).to(device)
    return zeros.to(torch.float32) / total


@outside_graphs
def _sparsity_of_all(layout: Layout, counted: Sequence[bool], device: torch.device) -> Tensor:
    exchange, sums = Exchange(layout.sums), []  # with which nothing is compared: it is no step
    for over in dict.fromkeys((*(owner.norm for owner in layout.owners), *layout.sums)):
        own = torch.zeros(2, dtype=torch.float64)
        for parameter, owner, counts in zip(layout.parameters, layout.owners, counted, strict=True):
            if counts and owner.norm == over:
                local = local_of(parameter)
                zeros = zeros_in(local).to(own)
                own = own + torch.stack([zeros, zeros.new_full((), local.numel())]) * owner.norm_share
        sums.append(exchange.add(own, over))
    exchange.run()
    zeros, total = torch.stack([each.total for each in sums]).sum(dim=0)
    fraction: Tensor = zeros / total.clamp(min=1)
    return fraction.to(device, torch.float32)


def described(name: str, param_groups: Sequence[Mapping[str, Any]], modifiers: Modifiers, backend: str | None) -> str:
    """The optimizer in torch's form, with its policies and its backend, and without its numbers of state."""
    lines = [f"{name} ("]
    for index, group in enumerate(param_groups):
        lines.append(f"Parameter Group {index}")
        hidden = ("params", "shared") if numbers_of(group) else ("params",)
        lines += [f"    {key}: {group[key]}" for key in sorted(group) if key not in hidden]
    names = ("clip", "step_size", "skip", "extensions", "precision")
    lines += [f"{name}: {getattr(modifiers, name)}" for name in names if getattr(modifiers, name)]
    return "\n".join([*lines, f"backend: {backend}", ")"])
