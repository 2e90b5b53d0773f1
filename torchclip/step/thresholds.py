"""From which norm, or loss, on the next step is clipped or skipped: what the policies with a memory make of it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from torchclip.backends.reference.adaptive import percentile
from torchclip.backends.reference.spikes import statistics
from torchclip.policies.clip import AdaGC, AutoClip, ZClip
from torchclip.policies.modifiers import Modifiers


def thresholds(modifiers: Modifiers, shared: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """By the names of ``optimizer.metrics()``, without waiting for the device; infinite where there is none yet.

    Args:
        modifiers: the optimizer's.
        shared: the numbers of state that belong to no single parameter.
    """
    found: dict[str, Tensor] = {}
    clip, skip = modifiers.clip, modifiers.skip
    if isinstance(clip, AdaGC) and "norm_bounds" in shared:
        bounds, steps = shared["norm_bounds"], shared["norm_count"]
        early = (bounds == 0) | (steps + 1 < clip.warmup_steps)  # whose bound is on the joint norm
        found["clip_threshold"] = torch.where(early, torch.inf, clip.lambda_rel * bounds)
    elif isinstance(clip, AutoClip) and "norm_window" in shared:
        held = shared["norm_count"].clamp(max=clip.window)
        found["clip_threshold"] = percentile(shared["norm_window"], held, clip.percentile)
    elif isinstance(clip, ZClip) and "norm_mean" in shared:
        bound = shared["norm_mean"] + clip.z_threshold * (shared["norm_variance"].sqrt() + clip.eps)
        bound = torch.where(shared["norm_count"] < clip.warmup_steps, torch.inf, bound)
        found["clip_threshold"] = bound.clamp(max=clip.max_norm)
    if skip is not None:
        for name, values, count in (
            ("skip_norm_threshold", "skip_norms", "skip_norm_count"),
            ("skip_loss_threshold", "skip_losses", "skip_loss_count"),
        ):
            if values in shared:
                judged, mean, deviation = statistics(shared[values], shared[count].to(shared[values]))
                found[name] = torch.where(judged, mean + skip.sigma * deviation, torch.inf)
    return found
