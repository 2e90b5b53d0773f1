"""Policies as the plans are told of them: in the numbering of ``csrc/step/modifiers.h``."""

from __future__ import annotations

import math
from collections.abc import Callable
from operator import attrgetter
from typing import Any, NamedTuple, TypeAlias

from torchclip.policies.clip import (
    AdaGC,
    AdaptiveGradientClip,
    AutoClip,
    ClipByGlobalNorm,
    ClipByTensorNorm,
    ClipByValue,
    NonFinite,
    Scope,
    ZClip,
)
from torchclip.policies.extensions import (
    GradientDropout,
    GradientNoise,
    Lookahead,
    LRDropout,
    WeightEMA,
    drop_threshold,
)
from torchclip.policies.group_clip import NOT_MEASURED
from torchclip.policies.modifiers import Modifiers
from torchclip.policies.skip import SkipSpikes
from torchclip.policies.step_size import AdaLossStep, PolyakStep, SqrtDecay

GroupNumbers: TypeAlias = tuple[int, float, bool, int]
"""Unit, limit, smooth and nonfinite of csrc/step/modifiers.h's ``GroupClip``."""

NO_CLIP, NORM_CLIP, VALUE_CLIP, UNIT_CLIP, PERCENTILE_CLIP, Z_CLIP, TENSOR_BOUND_CLIP = range(7)
NO_STEP_SIZE, LOSS_STEP_SIZE, SQRT_STEP_SIZE, POLYAK_STEP_SIZE = range(4)
STEPPED, SKIPPED, NON_FINITE, UNREADY = range(4)
GROUPS_CHANGED = -1
"""What ``refresh`` returns in place of positions: param groups have other clip policies than the plan."""

SCOPES = tuple(Scope)
NONFINITES = tuple(NonFinite)


class Code(NamedTuple):
    """What the plans are told of a policy.

    Args:
        field: of csrc/step/modifier_fields.h, which says that there is one.
        kind: its number there.
        others: fields and what they hold, from the policy.
    """

    field: str
    kind: int
    others: dict[str, Callable[[Any], float]]


def _code(field: str, kind: int, **others: str | Callable[[Any], float]) -> Code:
    """A field that is named by an attribute holds that."""
    return Code(field, kind, {name: attrgetter(of) if isinstance(of, str) else of for name, of in others.items()})


def _threshold(dropout: GradientDropout | LRDropout) -> int:
    return drop_threshold(dropout.p)


def _growth(step_size: PolyakStep) -> float:
    return 0.0 if step_size.growth is None else step_size.growth


def _others_weight(ema: WeightEMA) -> float:
    return 1 - ema.decay


_SKIP = {"skip_norm": "watches_norm", "skip_loss": "watches_loss", "skip_window": "window", "skip_sigma": "sigma"}
_EMA: dict[str, str | Callable[[Any], float]] = {
    "lookahead_k": "update_every",
    "lookahead_alpha": _others_weight,
    "ema_warmup": "warmup",
}
_TENSOR_BOUND = {"limit": "lambda_abs", "relative_limit": "lambda_rel", "z_alpha": "beta", "z_warmup": "warmup_steps"}
_NORM = {"limit": "max_norm", "smooth": "smooth"}
_Z = {"limit": "max_norm", "z_alpha": "alpha", "z_threshold": "z_threshold", "z_warmup": "warmup_steps", "z_eps": "eps"}

CODES: dict[type, Code] = {
    ClipByGlobalNorm: _code("clip", NORM_CLIP, **_NORM),
    ClipByTensorNorm: _code("clip", NORM_CLIP, **_NORM),
    ClipByValue: _code("clip", VALUE_CLIP, limit="max_value"),
    AdaptiveGradientClip: _code("clip", UNIT_CLIP, limit="clipping", unit_eps="eps"),
    AutoClip: _code("clip", PERCENTILE_CLIP, percentile="percentile", window="window"),
    ZClip: _code("clip", Z_CLIP, **_Z),
    AdaGC: _code("clip", TENSOR_BOUND_CLIP, **_TENSOR_BOUND),
    AdaLossStep: _code("step_size", LOSS_STEP_SIZE, alpha="alpha", c="c"),
    SqrtDecay: _code("step_size", SQRT_STEP_SIZE, alpha="alpha", b0="b0"),
    PolyakStep: _code("step_size", POLYAK_STEP_SIZE, c="f_star", alpha="c", step_eps="eps", growth=_growth),
    SkipSpikes: _code("skip_norm", 0, **_SKIP),
    GradientNoise: _code("gradient_noise", 1, noise_eta="eta", noise_gamma="gamma"),
    GradientDropout: _code("gradient_dropout", 1, gradient_threshold=_threshold),
    LRDropout: _code("lr_dropout", 1, lr_threshold=_threshold),
    Lookahead: _code("lookahead_k", 0, lookahead_k="k", lookahead_alpha="alpha"),
    WeightEMA: _code("averages", 1, **_EMA),
}
"""Every policy, step size and extension."""


def configuration(modifiers: Modifiers) -> dict[str, float]:
    """The modifiers as csrc/step/modifier_fields.h names them: a number for each field."""
    numbers = _clips(modifiers)
    for each in (modifiers.skip, modifiers.step_size, *modifiers.extensions):
        if each is not None:
            numbers |= _numbers(each)
    return numbers


def _numbers(policy: object) -> dict[str, float]:
    code = next(code for kind, code in CODES.items() if isinstance(policy, kind))
    return {code.field: code.kind, **{name: value(policy) for name, value in code.others.items()}}


def group_numbers(modifiers: Modifiers) -> list[GroupNumbers]:
    """The ``GroupClip`` of csrc/step/modifiers.h of each param group; none where no group has a policy of its own."""
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
    clip = None if modifiers.group_clips else modifiers.clip
    if clip is None:
        return {"clip": NO_CLIP}
    if isinstance(clip, ClipByValue):
        return _numbers(clip)
    of_norms = {"nonfinite": NONFINITES.index(clip.nonfinite), "clip_scope": SCOPES.index(clip.scope)}
    return {**of_norms, **_numbers(clip)}
