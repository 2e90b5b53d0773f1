"""The plan of a fused backend: what takes its steps, told once of the rule and the policies."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from torchclip.backends import choice, native
from torchclip.backends.codes import SCOPES, configuration, group_numbers
from torchclip.backends.held import held
from torchclip.backends.sharded_plan import ShardedPlan, Sharing
from torchclip.policies.modifiers import BESIDE_RULE, Modifiers
from torchclip.rules.norms import Scope
from torchclip.rules.rule_spec import RuleSpec
from torchclip.state.group_values import GroupKeys, Key

if TYPE_CHECKING:
    from torchclip import _C

Plan: TypeAlias = "_C.Plan | _C.CudaPlan | _C.TritonPlan | ShardedPlan"


def described(
    spec: RuleSpec, scope: Scope, keys: GroupKeys
) -> tuple[str, Sequence[Key], Sequence[str], Sequence[str], int]:
    """The rule as every plan is told of it: its name, keys of a param group, slots, numbers of state, and its scope."""
    slots = [slot.name for slot in spec.slots if slot.name not in BESIDE_RULE]
    return spec.name, keys.described, slots, [scalar.name for scalar in spec.scalars], SCOPES.index(scope)


def make_plan(
    backend: str, spec: RuleSpec, scope: Scope, modifiers: Modifiers, keys: GroupKeys, sharing: Sharing | None = None
) -> Plan:
    """The plan of a fused backend for the rule.

    Args:
        backend: one of the fused.
        spec: the rule.
        scope: that of a rule that clips itself.
        modifiers: the options applied around the rule.
        keys: what the param groups hold.
        sharing: what it asks of other processes; None for nothing.
    """
    extension, rule = native.NATIVE, described(spec, scope, keys)
    assert extension is not None, "a fused backend is chosen only where the extension is"
    plan: _C.Plan | _C.CudaPlan | _C.TritonPlan
    if backend == "triton":
        from torchclip.backends.triton.launcher import Launcher  # which imports Triton

        plan = extension.TritonPlan(*rule, choice.served_device(backend), partial(Launcher, spec))
    else:
        plan = extension.CudaPlan(*rule) if backend == "cuda" else extension.Plan(*rule)
    if modifiers.precision is not None:
        plan.hold(*held(modifiers.precision, spec))
    taken: Plan = plan
    if sharing is not None:
        taken = ShardedPlan(plan, spec, scope, sharing, modifiers.precision)
    taken.configure(configuration(modifiers), group_numbers(modifiers))
    return taken
