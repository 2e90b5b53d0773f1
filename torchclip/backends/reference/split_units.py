"""Adaptive gradient clipping over processes: one collective, though the reported factor is a norm of clipped rows.

What a process knows before it, the rows that it holds alone, it clips before it; the rows that are split are known to
all of their processes after it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from torchclip.backends.reference import adaptive, pipeline
from torchclip.backends.reference.rows import SplitRows
from torchclip.backends.reference.run import Run
from torchclip.distributed.exchange import Over, processes_in
from torchclip.policies.clip import AdaptiveGradientClip


def split_units(run: Run, clip: AdaptiveGradientClip) -> tuple[Tensor, Tensor, Sequence[Tensor]]:
    """The joint norm, the share of it that is left, and the factor of each parameter, as :mod:`measure` reports them.

    Args:
        run: a step of several processes.
        clip: the policy.
    """
    layout, exchange = run.layout, run.exchange
    assert layout is not None and exchange is not None
    one = torch.ones((), dtype=torch.float64)
    clips: list[Tensor] = [one] * sum(run.group_sizes)
    rows = SplitRows(run, least_dimensions=0)
    joint: dict[Over, Tensor] = {over: torch.zeros(2, dtype=torch.float64) for over in layout.norms}
    for entry in run.entries:
        raw = pipeline.raw_gradient(entry.gradient, entry.group, run.inv_scale).view_as(entry.parameter)
        weight = entry.value.view_as(entry.parameter)
        if entry.index in rows:
            rows.measure(entry.index, raw, weight)
            continue
        gradients = adaptive.unit_norms(raw, entry.owner.ndim)
        factors = adaptive.unit_factors(clip, adaptive.unit_norms(weight, entry.owner.ndim), gradients)
        clips[entry.index], owner = factors, layout.owners[entry.index]
        joint[owner.norm] = joint[owner.norm].to(gradients.device) + _squares(gradients, factors) * owner.norm_share
    sums = [exchange.add(own, over) for over, own in joint.items()]
    rows.add(tensors=2)
    run.run_exchange()
    total = torch.stack([each.total for each in sums]).sum(dim=0)
    # Whoever holds other parameters knows nothing of these rows, and may have no split ones of its own.
    elsewhere = {over: torch.zeros_like(total) for over in layout.apart}
    for index, owner in enumerate(layout.owners):
        if index in rows:
            gradients, weights = rows.whole(index).sqrt()
            factors = adaptive.unit_factors(clip, weights, gradients)
            clips[index], squares = rows.local(index, factors), _squares(gradients, factors).to(total)
            if owner.norm in elsewhere:
                holders = processes_in(owner.tensor) * owner.tensor_share / owner.norm_share
                elsewhere[owner.norm] += squares / holders
            else:
                total = total + squares
    sums = [exchange.add(own, over) for over, own in elsewhere.items()]
    run.run_exchange()
    for each in sums:
        total = total + each.total
    norm, left = total.sqrt()
    return norm, torch.where(norm == 0, 1.0, left / torch.where(norm == 0, 1.0, norm)), clips


def _squares(norms: Tensor, factors: Tensor) -> Tensor:
    """[2]: the sums of the squares of the norms, before and after clipping."""
    return torch.stack([(norms**2).sum(), ((factors * norms) ** 2).sum()])
