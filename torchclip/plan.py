"""The compiled plan from Python: its arguments in the order and the numbering of ``csrc/plan.h``."""

from __future__ import annotations

from typing import Any

from torchclip.backend import EXTENSION
from torchclip.clip import ClipByValue, ClipPolicy, NonFinite, Scope
from torchclip.rule_spec import RuleSpec

NO_CLIP, NORM_CLIP, VALUE_CLIP = range(3)
STEPPED, SKIPPED, NON_FINITE = range(3)
SCOPES = tuple(Scope)
NONFINITES = tuple(NonFinite)


def make_plan(spec: RuleSpec, scope: Scope) -> Any:
    """A ``torchclip._C.Plan`` for the rule; ``scope`` is that of a rule that clips itself."""
    assert EXTENSION is not None, "the cpu backend is chosen only where the extension is"
    return EXTENSION.Plan(
        spec.name,
        list(spec.hyperparameters),
        [slot.name for slot in spec.slots],
        [scalar.name for scalar in spec.scalars],
        SCOPES.index(scope),
    )


def clip_arguments(clip: ClipPolicy | None) -> tuple[int, float, bool, int, int]:
    """The policy as csrc/bindings.cpp's step() takes it: kind, limit, smooth, nonfinite, scope."""
    if clip is None:
        return NO_CLIP, 0.0, False, 0, 0
    if isinstance(clip, ClipByValue):
        return VALUE_CLIP, clip.max_value, False, 0, 0
    return NORM_CLIP, clip.max_norm, clip.smooth, NONFINITES.index(clip.nonfinite), SCOPES.index(clip.scope)
