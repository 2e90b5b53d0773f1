"""The compiled plan from Python: its arguments in the numbering of ``csrc/modifiers.h``."""

from __future__ import annotations

import math
from threading import Lock
from typing import TYPE_CHECKING, TypeAlias

from torchclip import backend as backends
from torchclip.clip import (
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
from torchclip.extensions import drop_threshold
from torchclip.group_clip import NOT_MEASURED
from torchclip.group_values import GroupKeys
from torchclip.modifiers import Modifiers
from torchclip.rule_spec import RuleSpec
from torchclip.step_size import AdaLossStep, SqrtDecay

if TYPE_CHECKING:
    from torchclip import _C
    from torchclip.triton_plan.plan import TritonPlan

Plan: TypeAlias = "_C.Plan | _C.CudaPlan | TritonPlan"

GroupNumbers: TypeAlias = tuple[int, float, bool, int]
"""Unit, limit, smooth and nonfinite of csrc/modifiers.h's ``GroupClip``."""

NO_CLIP, NORM_CLIP, VALUE_CLIP, UNIT_CLIP, PERCENTILE_CLIP, Z_CLIP = range(6)
NO_STEP_SIZE, LOSS_STEP_SIZE, SQRT_STEP_SIZE = range(3)
STEPPED, SKIPPED, NON_FINITE, UNREADY = range(4)
GROUPS_CHANGED = -1
"""What ``refresh`` returns in place of positions: param groups have other clip policies than the plan."""
IN_A_STEP = (
    "this optimizer is in a step already, of another thread or one that this call comes from: take the steps of an "
    "optimizer one after the other"
)

SCOPES = tuple(Scope)
NONFINITES = tuple(NonFinite)


def claimed(lock: Lock) -> Lock:
    """The lock of a step in Python, for a ``with``, which lets go of it whatever comes.

    A step within a step would wait for itself. Where two threads ask at the same time, one waits.

    Raises:
        RuntimeError: when it is taken.
    """
    if lock.locked():
        raise RuntimeError(IN_A_STEP)
    return lock


def make_plan(backend: str, spec: RuleSpec, scope: Scope, modifiers: Modifiers, keys: GroupKeys) -> Plan:
    """The plan of a fused backend for the rule.

    Args:
        backend: one of the fused.
        spec: the rule.
        scope: that of a rule that clips itself.
        modifiers: what stands around the rule.
        keys: what the param groups hold.
    """
    extension = backends.EXTENSION
    if backend == "triton":
        from torchclip.triton_plan.plan import make_plan as make_triton_plan  # which imports Triton

        triton_plan = make_triton_plan(spec, scope, keys, backends.served_device(backend), extension)
        triton_plan.configure(configuration(modifiers), group_numbers(modifiers))
        return triton_plan
    assert extension is not None, "a compiled backend is chosen only where the extension is"
    plan_class = extension.CudaPlan if backend == "cuda" else extension.Plan
    rule_slots = [slot for slot in spec.slots if slot.name != "slow"]
    plan: _C.Plan | _C.CudaPlan = plan_class(
        spec.name,
        keys.described,
        [slot.name for slot in rule_slots],
        [scalar.name for scalar in spec.scalars],
        SCOPES.index(scope),
    )
    plan.configure(configuration(modifiers), group_numbers(modifiers))
    return plan


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
