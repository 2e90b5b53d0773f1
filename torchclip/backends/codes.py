"""Policies as the plans are told of them: in the numbering of ``csrc/modifiers.h``."""

from __future__ import annotations

import math
from typing import TypeAlias

from torchclip.policies.clip import (
    AdaptiveGradientClip,
    AutoClip,
    ClipByGlobalNorm,
    ClipByTensorNorm,
    ClipByValue,
    ClipPolicy,
    NonFinite,
    Scope,
    ZClip,
)
from torchclip.policies.extensions import drop_threshold
from torchclip.policies.group_clip import NOT_MEASURED
from torchclip.policies.modifiers import Modifiers
from torchclip.policies.step_size import AdaLossStep, SqrtDecay

GroupNumbers: TypeAlias = tuple[int, float, bool, int]
"""Unit, limit, smooth and nonfinite of csrc/modifiers.h's ``GroupClip``."""

NO_CLIP, NORM_CLIP, VALUE_CLIP, UNIT_CLIP, PERCENTILE_CLIP, Z_CLIP = range(6)
NO_STEP_SIZE, LOSS_STEP_SIZE, SQRT_STEP_SIZE = range(3)
STEPPED, SKIPPED, NON_FINITE, UNREADY = range(4)
GROUPS_CHANGED = -1
"""What ``refresh`` returns in place of positions: param groups have other clip policies than the plan."""

SCOPES = tuple(Scope)
NONFINITES = tuple(NonFinite)


def configuration(modifiers: Modifiers) -> dict[str, float]:
    """The modifiers as csrc/modifiers.h reads them: a number for each field."""
    numbers: dict[str, float] = {**_clips(modifiers)}
    if isinstance(modifiers.step_size, AdaLossStep):
        numbers |= {"step_size": LOSS_STEP_SIZE, "alpha": modifiers.step_size.alpha, "c": modifiers.step_size.c}
    elif isinstance(modifiers.step_size, SqrtDecay):
        step_size = modifiers.step_size
        numbers |= {"step_size": SQRT_STEP_SIZE, "alpha": step_size.alpha, "b0": step_size.b0}
    if modifiers.gradient_noise is not None:
        noise = modifiers.gradient_noise
        numbers |= {"gradient_noise": True, "noise_eta": noise.eta, "noise_gamma": noise.gamma}
    if modifiers.gradient_dropout is not None:
        numbers |= {"gradient_dropout": True, "gradient_threshold": drop_threshold(modifiers.gradient_dropout.p)}
    if modifiers.lr_dropout is not None:
        numbers |= {"lr_dropout": True, "lr_threshold": drop_threshold(modifiers.lr_dropout.p)}
    if modifiers.lookahead is not None:
        numbers |= {"lookahead_k": modifiers.lookahead.k, "lookahead_alpha": modifiers.lookahead.alpha}
    return numbers


def group_numbers(modifiers: Modifiers) -> list[GroupNumbers]:
    """The ``GroupClip`` of csrc/modifiers.h of each param group; none where no group has a policy of its own."""
    if not modifiers.measures:
        return []
    return [
        (NOT_MEASURED.unit, math.inf, False, 0)
        if each.policy is None
        else (each.unit, each.policy.max_norm, each.policy.smooth, NONFINITES.index(NonFinite(each.policy.nonfinite)))
        for each in modifiers.group_clips
    ]


def _clips(modifiers: Modifiers) -> dict[str, float]:
    groups = group_numbers(modifiers)
    if groups:
        strictest = max(nonfinite for _, _, _, nonfinite in groups)
        return {"clip": NORM_CLIP, "clip_scope": SCOPES.index(Scope.GROUP), "nonfinite": strictest}
    return _clip(None if modifiers.group_clips else modifiers.clip)


def _clip(clip: ClipPolicy | None) -> dict[str, float]:
    if clip is None:
        return {"clip": NO_CLIP}
    if isinstance(clip, ClipByValue):
        return {"clip": VALUE_CLIP, "limit": clip.max_value}
    common = {"nonfinite": NONFINITES.index(clip.nonfinite), "clip_scope": SCOPES.index(clip.scope)}
    if isinstance(clip, (ClipByGlobalNorm, ClipByTensorNorm)):
        return {**common, "clip": NORM_CLIP, "limit": clip.max_norm, "smooth": clip.smooth}
    if isinstance(clip, AdaptiveGradientClip):
        return {**common, "clip": UNIT_CLIP, "limit": clip.clipping, "unit_eps": clip.eps}
    if isinstance(clip, AutoClip):
        return {**common, "clip": PERCENTILE_CLIP, "percentile": clip.percentile, "window": clip.window}
    assert isinstance(clip, ZClip)
    return {
        **common,
        "clip": Z_CLIP,
        "limit": clip.max_norm,
        "z_alpha": clip.alpha,
        "z_threshold": clip.z_threshold,
        "z_warmup": clip.warmup_steps,
        "z_eps": clip.eps,
    }
