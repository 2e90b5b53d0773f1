"""The clip policies that look at past norms, or at the weights, each in the form of its paper.

A policy with a memory maps a norm and the numbers that it remembers to a factor and the new numbers. All are tensors,
and none is read by the host: what a step remembers depends on ``where``, not on ``if``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from torchclip.policies.clip import AdaGC, AdaptiveGradientClip, AutoClip, ZClip
from torchclip.rules.norms import norm_dtype

Memory = dict[str, Tensor]

CLIP_EPS = 1e-6
"""Added to the norm by torch's clip_grad_norm_, with which the authors of AutoClip and ZClip clip."""
SMALLEST_UNIT_NORM = 1e-6
"""Of a gradient, in adaptive gradient clipping: it keeps a zero gradient from a division by zero."""


# Adaptive gradient clipping:
#
#     G_i ← G_i · min(1, λ · max(‖W_i‖, ε) / max(‖G_i‖, 10⁻⁶))        for each unit i
#
# Brock, De, Smith, Simonyan, High-Performance Large-Scale Image Recognition Without Normalization, ICML 2021,
# arXiv 2102.06171, equation (3).


def unit_norms(tensor: Tensor, dimensions: int) -> Tensor:
    """The norms of the rows of the leading dimension, [rows, 1, …]; of the whole tensor, [], below two dimensions.

    Args:
        tensor: the real view of a complex parameter, or of its gradient.
        dimensions: of the parameter itself.
    """
    inner = tuple(range(1, tensor.ndim)) if dimensions > 1 else None
    dtype = norm_dtype(tensor.device)
    norms: Tensor = torch.linalg.vector_norm(tensor, dim=inner, keepdim=inner is not None, dtype=dtype)
    return norms


def unit_factors(clip: AdaptiveGradientClip, weights: Tensor, gradients: Tensor) -> Tensor:
    """The factor of each unit from its two norms, all of the same shape; a NaN stays one."""
    return (clip.clipping * weights.clamp(min=clip.eps) / gradients.clamp(min=SMALLEST_UNIT_NORM)).clamp(max=1)


def is_remembered(norm: Tensor) -> Tensor:
    """Whether a policy remembers a norm: one of exactly 0 is that of a step without gradients, as
    torch.distributed.checkpoint takes it to have state made."""
    return norm.isfinite() & (norm != 0)


# AutoClip:
#
#     remember ‖g‖;   g ← g · min(1, P_q(the norms remembered) / (‖g‖ + 10⁻⁶))
#
# Seetharaman, Wichern, Pardo, Le Roux, AutoClip: Adaptive Gradient Clipping for Source Separation Networks, MLSP 2020,
# arXiv 2007.14469, Algorithm 1; the percentile is numpy's, as in their code.


def auto_clip(clip: AutoClip, norm: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
    """The factor, and the numbers with this norm remembered; one that is not finite, or is 0, is not."""
    count, window = memory["norm_count"], memory["norm_window"]
    slots = torch.arange(clip.window, device=norm.device)
    counts = is_remembered(norm)
    window = torch.where(counts & (slots == count % clip.window), norm, window)
    count = count + counts
    max_norm = percentile(window, count.clamp(max=clip.window), clip.percentile)
    # Without a norm to go by nothing is clipped, and one that is not finite reaches the parameters.
    factor = torch.where(count == 0, 1.0, (max_norm / (norm + CLIP_EPS)).clamp(max=1))
    return factor, {"norm_count": count, "norm_window": window}


def percentile(values: Tensor, count: Tensor, q: float) -> Tensor:
    """The q-th percentile of the first ``count`` of ``values`` [n], with linear interpolation; inf where there is none.

    Args:
        values: [n].
        count: 0-dim, in [0, n].
        q: in [0, 100].
    """
    used = torch.arange(len(values), device=values.device) < count
    ordered = torch.where(used, values, torch.inf).sort().values
    last = (count - 1).clamp(min=0)
    position = q / 100 * last
    below = position.floor()
    above = torch.minimum(below + 1, last)
    low, high = (ordered.gather(0, rank.long().reshape(1)).reshape(()) for rank in (below, above))
    return torch.where(above == below, low, low + (high - low) * (position - below))


# ZClip, with μ and σ² from the norms of the warm-up:
#
#     z = (‖g‖ − μ) / (σ + ε),   n = μ + z_thres² / z · σ where z > z_thres, else ‖g‖;   n ← min(n, max_norm)
#     g ← g · n / (‖g‖ + 10⁻⁶)     where ‖g‖ > n
#     μ ← α μ + (1 − α) n,   σ² ← α σ² + (1 − α) (n − μ)²
#
# Kumar, Owen, Roy Chowdhury, Güra, ZClip: Adaptive Spike Mitigation for LLM Pre-Training, 2025, arXiv 2504.02507,
# Algorithm 1 with reciprocal clipping. Until the warm-up is over n is max_norm, and the averages are those so far.


def z_clip(clip: ZClip, norm: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
    """The factor, and the new averages; a norm that is not finite, or is 0, leaves them."""
    count, mean, variance = memory["norm_count"], memory["norm_mean"], memory["norm_variance"]
    max_norm = torch.full_like(norm, clip.max_norm)
    warming, counts = count < clip.warmup_steps, is_remembered(norm)

    # The root of 0 has no derivative, and the variance is 0 after one norm.
    std = torch.where(variance > 0, torch.where(variance > 0, variance, 1.0).sqrt(), 0.0)
    z = (norm - mean) / (std + clip.eps)
    spikes = z > clip.z_threshold
    # 1 in place of a z that is not used: 0 would divide by zero in the branch not taken, whose NaN autograd would find.
    bound = torch.where(spikes, mean + clip.z_threshold**2 / torch.where(spikes, z, 1.0) * std, norm)
    bound = torch.minimum(bound, max_norm)
    average = clip.alpha * mean + (1 - clip.alpha) * bound
    spread = clip.alpha * variance + (1 - clip.alpha) * (bound - average) ** 2

    seen = count + 1
    mean_so_far = mean + (norm - mean) / seen
    variance_so_far = (variance * count + (norm - mean) * (norm - mean_so_far)) / seen

    bound = torch.where(warming, max_norm, bound)
    # The smaller of the two, again for the branch not taken: a bound of inf has no derivative to give.
    factor = torch.where(norm > bound, torch.minimum(bound, norm) / (norm + CLIP_EPS), 1.0)
    return factor, {
        "norm_count": count + counts,
        "norm_mean": torch.where(counts, torch.where(warming, mean_so_far, average), mean),
        "norm_variance": torch.where(counts, torch.where(warming, variance_so_far, spread), variance),
    }


# AdaGC, for each tensor with n = ‖g‖ of it and N = ‖g‖ of all:
#
#     before t = T:   h = min(λ_abs / N, 1),      γ ← h n in the first step, else min(γ, h n)
#     from t = T on:  h = min(λ_rel γ / n, 1),    γ ← β γ + (1 − β) h n
#     g ← h g
#
# Wang et al., AdaGC: Improving Training Stability for Large Language Model Pretraining, 2025, arXiv 2502.11034,
# Algorithm 1. A γ of 0 is none yet. A norm of 0, or one that is not finite, leaves it.


def ada_gc(clip: AdaGC, norms: Tensor, joint: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
    """The factor of each tensor, and the new bounds; ``norms`` are [parameters], ``joint`` 0-dim."""
    bounds, step = memory["norm_bounds"], memory["norm_count"] + 1
    is_first = bounds == 0
    early = (step < clip.warmup_steps) | is_first
    known = torch.where(norms == 0, 1.0, norms)
    factors = torch.where(early, clip.lambda_abs / joint, clip.lambda_rel * bounds / known).clamp(max=1)
    factors = torch.where(norms == 0, 1.0, factors)
    left = factors * norms
    average = clip.beta * bounds + (1 - clip.beta) * left
    new = torch.where(early, torch.where(is_first, left, torch.minimum(bounds, left)), average)
    return factors, {"norm_count": step, "norm_bounds": torch.where(left.isfinite() & (norms != 0), new, bounds)}
