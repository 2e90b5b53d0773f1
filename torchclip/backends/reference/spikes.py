"""What SkipSpikes makes of a step, and remembers of it.

    the step is taken where  x − mean(H) ≤ σ · std(H)  for each x, H the values before it

The rule of the skip-step optimizers of OLMo-core.
"""

from __future__ import annotations

import torch
from torch import Tensor

from torchclip.backends.reference.run import Run
from torchclip.backends.reference.writes import Writes
from torchclip.rules.norms import norm_dtype


def find_spikes(run: Run, joint: Tensor | None, loss: Tensor | None) -> tuple[Tensor, Writes]:
    """Whether the step is to be skipped, 0-dim, and what is remembered whatever becomes of it.

    Args:
        run: a step with SkipSpikes.
        joint: 0-dim, the norm of all gradients; None where that is not looked at.
        loss: 0-dim, likewise.
    """
    skip = run.modifiers.skip
    assert skip is not None, "there is nothing that skips steps"
    found, writes = [], []
    watched = (
        (skip.watches_norm, joint, "skip_norms", "skip_norm_count"),
        (skip.watches_loss, loss, "skip_losses", "skip_loss_count"),
    )
    for watches, value, of_values, of_count in watched:
        if not watches:
            continue
        assert value is not None, f"SkipSpikes watches {skip.on} and was not given one of them"
        values, counted = run.shared[of_values], run.shared[of_count]
        spikes, new, count = stands_out(value.detach().to(values), values, counted, skip.sigma)
        found.append(spikes)
        writes += [(values, new), (counted, count)]
    return torch.stack([each.to(found[0].device) for each in found]).any(), writes


def stands_out(value: Tensor, values: Tensor, counted: Tensor, sigma: float) -> tuple[Tensor, Tensor, Tensor]:
    """Whether a value stands out from those before it or is not finite; the values with it, and how many there were.

    Args:
        value: 0-dim.
        values: [window], a ring.
        counted: 0-dim, how many values have been remembered so far.
        sigma: how many standard deviations it may lie above the mean.
    """
    window, finite = len(values), value.isfinite()
    slots = torch.arange(window, device=values.device)
    counted = counted.to(values.device, norm_dtype(values.device))
    judged, mean, deviation = statistics(values, counted)
    spikes = (judged & (value - mean > sigma * deviation)) | ~finite
    return spikes, torch.where(finite & (slots == counted % window), value, values), counted + finite


def statistics(values: Tensor, counted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Whether there are enough values to judge by, their mean, and their standard deviation with n − 1."""
    window = len(values)
    held = counted.clamp(max=window)
    used = torch.arange(window, device=values.device) < held
    mean = torch.where(used, values, 0.0).sum() / held.clamp(min=1)
    squares = torch.where(used, (values - mean) ** 2, 0.0).sum()
    return (held >= 2) & (held + 1 >= window // 2), mean, (squares / (held - 1).clamp(min=1)).sqrt()
