"""The plan of a fused backend: what takes its steps, told once of the rule and the policies."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from torchclip.backends import choice, native
from torchclip.backends.codes import SCOPES, configuration, group_numbers
from torchclip.policies.modifiers import Modifiers
from torchclip.rules.norms import Scope
from torchclip.rules.rule_spec import RuleSpec
from torchclip.state.group_values import GroupKeys

if TYPE_CHECKING:
    from torchclip import _C

Plan: TypeAlias = "_C.Plan | _C.CudaPlan | _C.TritonPlan"


def make_plan(backend: str, spec: RuleSpec, scope: Scope, modifiers: Modifiers, keys: GroupKeys) -> Plan:
    """The plan of a fused backend for the rule.

    Args:
        backend: one of the fused.
        spec: the rule.
        scope: that of a rule that clips itself.
        modifiers: the options applied around the rule.
        keys: what the param groups hold.
    """
    if backend == "triton":
        from torchclip.backends.triton.launcher import make_plan as make_triton_plan  # which imports Triton

        triton_plan = make_triton_plan(spec, scope, keys, choice.served_device(backend))
        triton_plan.configure(configuration(modifiers), group_numbers(modifiers))
        return triton_plan
    extension = native.NATIVE
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
