"""Thresholds that ``target_sparsity`` steers: the factor on a group's goes by the zeros that a step finds in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from torchclip.backends.reference.run import Run
from torchclip.backends.reference.writes import Writes
from torchclip.distributed.exchange import Over, Sum
from torchclip.rules.norms import norm_dtype
from torchclip.rules.soft_threshold import TARGET, THRESHOLD_SCALE, steered, steers
from torchclip.state.group_state import numbers_of
from torchclip.state.steppable import leading_device
from torchclip.state.zeros import zeros_in


@dataclass(frozen=True)
class Steering:
    """Of one step.

    Args:
        run: the step.
        sums: [groups, 2], over each set of processes: the zeros in the parameters that have a gradient, and the
            elements of these; there once the exchange has run.
    """

    run: Run
    sums: tuple[Sum, ...]

    @classmethod
    def of(cls, run: Run) -> Steering | None:
        """Counts, and hands the run's exchange what it has to add; None where no group has a target."""
        return cls(run, _counts(run)) if steers(run.spec, run.param_groups) else None

    def scales(self) -> list[Tensor | None]:
        """[groups]: the factor of this step, 0-dim; None for a group without a target."""
        zeros, elements = torch.stack([each.total for each in self.sums]).sum(dim=0).unbind(dim=1)
        found: list[Tensor | None] = []
        for group, own, count in zip(self.run.param_groups, zeros, elements, strict=True):
            if TARGET not in group:
                found.append(None)
                continue
            held = numbers_of(group)[THRESHOLD_SCALE]
            with torch.no_grad():  # a target may be a tensor
                moved = steered(held, group[TARGET], (own / count.clamp(min=1)).to(held))
                moves = count.to(held) > 0
                for key in ("lr", self.run.spec.hyperparameters[0]):  # without a threshold there is nothing to steer
                    moves &= torch.as_tensor(group[key], dtype=torch.float64, device=held.device).reshape(()) != 0
                found.append(torch.where(moves, moved, held))
        return found

    def writes(self, scales: Sequence[Tensor | None]) -> Writes:
        """What a step that is taken leaves behind."""
        pairs = zip(self.run.param_groups, scales, strict=True)
        return [(numbers_of(group)[THRESHOLD_SCALE], scale) for group, scale in pairs if scale is not None]


@torch.no_grad()
def _counts(run: Run) -> tuple[Sum, ...]:
    device, layout = leading_device(run.param_groups), run.layout if run.is_split else None
    keys: tuple[Over, ...] = ((),) if layout is None else layout.norms
    none = torch.zeros(2, dtype=norm_dtype(device), device=device)
    counts = [[none for _ in run.param_groups] for _ in keys]
    for entry in run.entries:
        if TARGET not in entry.group:
            continue
        zeros = zeros_in(entry.parameter).to(none)
        own = torch.stack([zeros, torch.full_like(zeros, entry.parameter.numel())])
        of_set = counts[0]
        if layout is not None:
            owner = layout.owners[entry.index]
            own, of_set = own * owner.norm_share, counts[keys.index(owner.norm)]
        of_set[entry.group_index] = of_set[entry.group_index] + own
    joined = [torch.stack(each) for each in counts]
    if run.exchange is None:
        return tuple(Sum((), own, own) for own in joined)
    return tuple(run.exchange.add(own, over) for over, own in zip(keys, joined, strict=True))
