"""Steps that are taken within backward(), parameter by parameter, so that no two gradients exist at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torchclip.policies.clip import AdaptiveGradientClip, ClipByTensorNorm, Scope, measures
from torchclip.policies.modifiers import Modifiers
from torchclip.rules.rule_spec import RuleSpec

NO_BACKWARD = -1
"""The graph task of a thread on which autograd runs no backward pass, as it does in a hook on a gradient."""

_OVER_MANY = (Scope.OPTIMIZER, Scope.GROUP)


def check_in_backward(
    name: str, modifiers: Modifiers, spec: RuleSpec, scope: Scope, param_groups: Sequence[dict[str, Any]]
) -> None:
    """Raises RuntimeError where a step, which is taken within backward(), cannot be.

    Args:
        name: of the optimizer's class.
        modifiers: its policies and extensions.
        spec: its rule.
        scope: over which parameters a rule that clips itself takes its norms.
        param_groups: its own.
    """
    modifiers = modifiers.with_clips(modifiers.clip, param_groups)  # as they are now
    reason = _reason_against(name, modifiers, spec, scope, sum(len(group["params"]) for group in param_groups))
    if reason is not None:
        raise RuntimeError(reason)


def _reason_against(name: str, modifiers: Modifiers, spec: RuleSpec, scope: Scope, parameters: int) -> str | None:
    there = "step() was called within backward(), where the gradients of other parameters are not there yet, and "
    for clip in modifiers.clips:
        if not measures(clip) or isinstance(clip, (ClipByTensorNorm, AdaptiveGradientClip)):
            continue
        return (
            f"{there}{clip} takes one norm over several parameters: call step() after backward(), or choose a policy "
            "that looks at one parameter at a time, ClipByTensorNorm(max_norm), AdaptiveGradientClip() or "
            "ClipByValue(max_value)"
        )
    if modifiers.takes_joint_norm and parameters > 1:
        return f"{there}what skips steps, or sets their size, takes one norm of all of them: call it after backward()"
    if spec.clips_itself and scope in _OVER_MANY:
        return (
            f"{there}{name} takes its norms over several parameters: call step() after backward(), or say "
            "scope='tensor'"
        )
    if modifiers.counts_steps and parameters > 1:
        return (
            "step() was called within backward(), once for each parameter, and noise, dropout, Lookahead and SqrtDecay "
            "go by the number of steps: make an optimizer for each parameter, or call step() after backward()"
        )
    return None
