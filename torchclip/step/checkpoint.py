"""What an optimizer takes from a checkpoint: checked as a whole and copied, before anything of it is assigned."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from torchclip.distributed.layout import KEY as NORM_GROUP
from torchclip.distributed.processes import refuse_pickle
from torchclip.policies.group_clip import KEY as CLIP
from torchclip.policies.modifiers import BESIDE_RULE
from torchclip.policies.precision import Precision
from torchclip.rules.hyperparameters import RUN_FLAGS
from torchclip.rules.norms import Scope
from torchclip.rules.rule_spec import Extent, RuleSpec, StateSlot
from torchclip.rules.state_numbers import exact_number
from torchclip.state.group_state import checked_shared, numbers_of
from torchclip.state.parameter_state import check_entries, check_held_state, foreign_entries
from torchclip.state.sharded import local_of
from torchclip.state.tensor_checks import describe_parameter
from torchclip.step.checkpoint_precision import (
    check_remainders,
    has_values,
    held_otherwise,
    of_another_kind,
    warn_of_conversion,
)
from torchclip.step.foreign_state import translated

if TYPE_CHECKING:
    from torchclip.step.fused_optimizer import FusedOptimizer

REPLACED = ("param_groups", "state", "spec", "_backend", "_last", "_plan", "_unstarted")
"""The attributes of an optimizer that loading replaces; what they held before is not written to."""


@dataclass(frozen=True)
class Prepared:
    """The state of one parameter, ready. Torch's ``load_state_dict`` casts the tensors of a dict, and hands this on."""

    entries: dict[str, Any]


@dataclass(frozen=True)
class Live:
    """A process group of a param group. Torch's ``load_state_dict`` copies what it loads, and this can be copied."""

    group: Any

    def __deepcopy__(self, memo: dict[int, Any]) -> Live:
        return self

    def __reduce__(self) -> Any:
        refuse_pickle()


def prepared(optimizer: FusedOptimizer, saved: Mapping[str, Any]) -> dict[str, Any]:
    """The state dict as torch is to load it: complete groups, and state that is the optimizer's own.

    Args:
        optimizer: whose ``load_state_dict`` it is; nothing of it is changed.
        saved: what the user's hooks have made of the caller's state dict; it is not changed either.

    Raises:
        TypeError, ValueError, RuntimeError: for whatever in it does not fit the optimizer.
    """
    groups, states = saved["param_groups"], saved["state"]
    if not isinstance(states, Mapping) or not all(isinstance(group, Mapping) for group in groups):
        raise TypeError(
            "a state dict is {'state': {…}, 'param_groups': [{…}, …]}, as optimizer.state_dict() gives it; this one "
            f"holds {type(states).__name__} and {[type(group).__name__ for group in groups]}"
        )
    if [len(group["params"]) for group in groups] != [len(group["params"]) for group in optimizer.param_groups]:
        return dict(saved)  # which torch refuses
    ids = [saved_id for group in groups for saved_id in group["params"]]
    if len(set(ids)) != len(ids):
        raise ValueError(f"the checkpoint's param groups list a parameter twice: {ids}; each must stand once")
    _check_sums(optimizer, groups)
    converted: set[str] = set()
    new_groups, new_states, restarted = [], dict(states), set()
    for index, (group, own) in enumerate(zip(groups, optimizer.param_groups, strict=True)):
        held = [states[saved_id] for saved_id in group["params"] if saved_id in states]
        new_group, step = _without_step(optimizer.spec, group, held)
        # How a checkpoint's optimizer ran is not how this one was asked to run.
        kept = (*RUN_FLAGS, CLIP, NORM_GROUP)
        for key in kept:
            new_group.pop(key, None)
        new_group |= {**optimizer.fixed, **{key: own[key] for key in kept if key in own}}
        if own.get(NORM_GROUP) is not None:
            new_group[NORM_GROUP] = Live(own[NORM_GROUP])
        completed = {**optimizer.defaults, **new_group}
        optimizer._keys.check(completed, f"param group {index} of the checkpoint")
        new_groups.append(checked_shared(index, new_group))
        for position, saved_id in enumerate(group["params"]):
            if saved_id in states:
                name = describe_parameter(optimizer.param_groups, index, position)
                parameter = own["params"][position]
                precision = optimizer._modifiers.precision
                entries, other = _state(optimizer.spec, name, parameter, completed, states[saved_id], step, precision)
                converted |= other
                restarted |= _left_out(optimizer.spec, entries, completed)
                new_states[saved_id] = Prepared(entries)
    if restarted:
        warnings.warn(
            f"the checkpoint's state lacks {sorted(restarted)}, which its hyperparameters ask for: that starts anew",
            stacklevel=5,
        )
    check_remainders(states.values())
    warn_of_conversion(converted, optimizer._modifiers.precision)
    return {**saved, "param_groups": new_groups, "state": new_states}


def packed(state: dict[str, Any]) -> dict[str, Any]:
    """What ``__getstate__`` gives, with process groups that can be copied: :func:`unpacked` undoes it."""
    groups = state["param_groups"]
    if all(group.get(NORM_GROUP) is None for group in groups):
        return state
    held = [
        group if group.get(NORM_GROUP) is None else {**group, NORM_GROUP: Live(group[NORM_GROUP])} for group in groups
    ]
    return {**state, "param_groups": held}


def unpacked(state: dict[str, Any]) -> dict[str, Any]:
    """What ``__setstate__`` is given, with what :class:`Prepared` and :class:`Live` stand for in their place."""
    for group in state.get("param_groups", ()):
        if isinstance(group.get(NORM_GROUP), Live):
            group[NORM_GROUP] = group[NORM_GROUP].group
    if not any(isinstance(held, Prepared) for held in state.get("state", {}).values()):
        return state
    items = {key: held.entries if isinstance(held, Prepared) else held for key, held in state["state"].items()}
    return {**state, "state": defaultdict(dict, items)}


@contextmanager
def all_or_nothing(optimizer: FusedOptimizer) -> Iterator[None]:
    """While torch loads a state dict: it loads what was :func:`prepared`, and a load that fails has done nothing."""
    before = {name: value for name, value in vars(optimizer).items() if name in REPLACED}
    # Registered last, it sees what the user's own hooks have made of the state dict.
    last = optimizer.register_load_state_dict_pre_hook(lambda _, final: prepared(optimizer, final))
    try:
        yield
    except BaseException:
        vars(optimizer).update(before)
        raise
    finally:
        last.remove()


def _without_step(
    spec: RuleSpec, group: Mapping[str, Any], held: Sequence[Any]
) -> tuple[dict[str, Any], int | float | Tensor | None]:
    """A copy of the group, and the count of steps where it is there: apex' and TransformerEngine's FusedAdam have one
    for a whole group."""
    lack = [state for state in held if isinstance(state, Mapping) and state and state.get("step") is None]
    if "step" not in group or not lack or not any(scalar.name == "step" for scalar in spec.scalars):
        return dict(group), None
    return {key: value for key, value in group.items() if key != "step"}, group["step"]


def _check_sums(optimizer: FusedOptimizer, groups: Sequence[Mapping[str, Any]]) -> None:
    """Raises where AdaGradNorm's sums were taken over other parameters."""
    having = [index for index, group in enumerate(groups) if "sum" in numbers_of(group)]
    wanted = {Scope.OPTIMIZER: [0], Scope.GROUP: list(range(len(groups)))}.get(optimizer.clips_by, [])
    if optimizer.spec.by_scope is not None and having and having != wanted:
        raise ValueError(
            f"the checkpoint has a sum of squared norms in param groups {having}, and "
            f"scope={optimizer.clips_by.value!r} keeps them in {wanted or 'the state of the parameters'}: load it into "
            "an optimizer with the scope that it was saved with"
        )


def _state(
    spec: RuleSpec,
    name: str,
    parameter: Tensor,
    group: Mapping[str, Any],
    saved: Any,
    step: int | float | Tensor | None,
    precision: Precision | None,
) -> tuple[dict[str, Any], set[str]]:
    """The state of one parameter under the names that it has here, in the types of this parameter, and what of it the
    checkpoint held otherwise."""
    if not isinstance(saved, Mapping):
        raise TypeError(f"the checkpoint's state of {name} is {type(saved).__name__}, and a dict is wanted")
    entries = {spec.aliases.get(key, key): value for key, value in translated(spec, name, saved).items()}
    if entries and entries.get("step") is None and step is not None:
        entries["step"] = step
    foreign = foreign_entries(spec, entries)
    if foreign:
        raise RuntimeError(
            f"the checkpoint's state of {name} is that of another rule: it has {sorted(map(str, entries))}, and "
            f"{spec.name} knows no {foreign}: load a checkpoint of this optimizer, or leave out what it does not "
            "know if the rest fits"
        )
    check_entries(spec, name, entries)
    entries, held, converted = held_otherwise(spec, name, parameter, group, precision, entries)
    slots = {slot.name: slot for slot in spec.slots}
    scalars = {scalar.name: scalar for scalar in spec.scalars}
    for key, value in entries.items():
        if key in scalars and value is not None:
            scalar = scalars[key]
            entries[key] = exact_number(f"state {key!r} of {name}", value, scalar.wanted, scalar.dtype).cpu()
        elif key in slots and isinstance(value, Tensor):
            entries[key] = _own_slot(slots[key], name, parameter, value)
        elif key not in slots:
            entries[key] = _own(key, value, parameter)
    entries |= held
    check_held_state(spec, name, parameter, group, entries, precision)
    return entries, converted


def _left_out(spec: RuleSpec, entries: Mapping[str, Any], group: Mapping[str, Any]) -> set[str]:
    """What the hyperparameters ask for and the state of a parameter has never had."""
    lasting = [slot.name for slot in spec.slots if not slot.optional] + [scalar.name for scalar in spec.scalars]
    if not any(entries.get(name) is not None for name in lasting):
        return set()
    return {name for name in spec.used_slots(group) if entries.get(name) is None} - BESIDE_RULE


def _own_slot(slot: StateSlot, name: str, parameter: Tensor, value: Tensor) -> Tensor:
    """A copy beside the parameter. It has the parameter's type, or float32 beside a half-precision one where it is
    float32 already or must not be rounded."""
    is_number = value.is_floating_point() or value.is_complex()
    if not has_values(value, parameter) or not is_number or value.is_complex() != parameter.is_complex():
        raise of_another_kind(slot.name, name, value, parameter)
    # One number that is not finite spoils its tensor or row alone, and such a run can be saved.
    sums = slot.extent is not Extent.ELEMENT and not value.is_meta
    if sums and bool((local_of(value.detach()).double() < 0).any()):
        raise ValueError(f"state {slot.name!r} of {name} is negative in the checkpoint, and sums of squares are wanted")
    keeps = value.dtype is torch.float32 or value.is_complex() or slot.at_least_float32
    dtype = torch.promote_types(parameter.dtype, torch.float32) if keeps else parameter.dtype
    return value.detach().resolve_conj().resolve_neg().to(parameter.device, dtype, copy=True)


def _own(key: Any, value: Any, parameter: Tensor) -> Any:
    """What is not the rule's: a copy in the type and on the device that torch would give it."""
    if isinstance(value, Tensor):
        casts = parameter.is_floating_point() and key != "step"
        device = value.device if key == "step" else parameter.device
        return value.detach().to(device, parameter.dtype if casts else value.dtype, copy=True)
    if isinstance(value, Mapping):
        return {inner: _own(inner, each, parameter) for inner, each in value.items()}
    if type(value) in (list, tuple, set):
        return type(value)(_own(None, each, parameter) for each in value)
    return value


def without_live(group: dict[str, Any]) -> dict[str, Any]:
    """A param group with None for what is no state, its clip policy and its process group: loading does not look at it,
    and ``torch.distributed.checkpoint`` asks flattened state for every key that a group has."""
    return {key: None if key in (CLIP, NORM_GROUP) else value for key, value in group.items()}
