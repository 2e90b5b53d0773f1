"""The state of the parameters of a fused step: made when it is first needed, and given up when the step is skipped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor

from torchclip.checks import check_gradient, check_parameter, check_state
from torchclip.clip import ClipPolicy
from torchclip.modifiers import SLOW
from torchclip.rule_spec import RuleSpec
from torchclip.rule_specs import RULES
from torchclip.state_numbers import exact_number, is_kept_number

OF_SOME_RULE = frozenset(
    [slot.name for spec in RULES.values() for slot in spec.slots]
    + [scalar.name for spec in RULES.values() for scalar in spec.scalars if scalar.name != "step"]
    + ["acc_delta", "ax", "exp_inf", "prev"],
)
"""Names that tell whose state it is: those of the rules here, and of Adadelta, ASGD, Adamax and Rprop in torch."""

Created = tuple[int, Tensor, str]
"""Position, parameter and the state's name."""


def create_state(
    spec: RuleSpec,
    named: Sequence[tuple[str, Tensor, Mapping[str, Any]]],
    state: MutableMapping[Tensor, dict[str, Any]],
    positions: Sequence[int],
    *,
    on_device: bool,
) -> list[Created]:
    """Checks the parameters at ``positions`` and makes the state they lack.

    Args:
        spec: the rule.
        named: every parameter with what errors call it and its group.
        state: as in ``optimizer.state``.
        positions: of those to look at.
        on_device: whether numbers of state lie on their parameter's device, or on the host.

    Returns:
        What was made.
    """
    wanted = [(position, *named[position]) for position in positions]
    check_all(spec, (named[position] for position in positions), state)
    created: list[Created] = []
    for position, _, parameter, group in wanted:
        held = state[parameter]
        numbers_on = parameter.device if on_device else "cpu"
        for name in spec.missing_state(held, group):
            held[name] = spec.create_state(name, parameter, group, numbers_on)
            created.append((position, parameter, name))
        for slot in spec.slots:
            # The kernels walk elements in any layout, and a number for each row in one alone.
            if slot.name in spec.used_slots(group) and slot.extent.is_apart(parameter):
                held[slot.name] = held[slot.name].contiguous()
        for scalar in spec.scalars:
            held[scalar.name] = held[scalar.name].to(numbers_on)
    return created


def foreign_entries(spec: RuleSpec, held: Mapping[Any, Any]) -> list[str]:
    """The entries of a parameter's state that other rules have, and this one has not."""
    own = {*(slot.name for slot in spec.slots), *(scalar.name for scalar in spec.scalars), SLOW.name}
    return sorted(name for name in OF_SOME_RULE - own if held.get(name) is not None)


def check_entries(spec: RuleSpec, name: str, held: Mapping[Any, Any]) -> None:
    """Raises when a parameter has some of the state that the rule always has, and not all; ``name`` is its own."""
    slots = [slot for slot in spec.slots if slot.name != SLOW.name]
    entries = {slot.name: slot.optional for slot in slots} | {scalar.name: False for scalar in spec.scalars}
    there = [entry for entry in entries if held.get(entry) is not None]
    missing = [entry for entry, optional in entries.items() if not optional and held.get(entry) is None]
    if there and missing:
        raise RuntimeError(
            f"the state of {name} has {there} and lacks {missing}, and {spec.name} needs both: load a checkpoint that "
            "has all of it, or give it no state at all, with which it starts anew"
        )


def check_held_state(
    spec: RuleSpec, name: str, parameter: Tensor, group: Mapping[str, Any], held: Mapping[str, Any]
) -> None:
    """Raises when the state that a parameter has does not fit; ``name`` is what errors call it."""
    check_entries(spec, name, held)
    names = [slot for slot in spec.used_slots(group) if held.get(slot) is not None]
    check_state(name, {slot: held[slot.name] for slot in spec.slots if slot.name in names}, parameter)


def check_all(
    spec: RuleSpec,
    named: Iterable[tuple[str, Tensor, Mapping[str, Any]]],
    state: Mapping[Tensor, Any],
) -> None:
    """Checks every parameter that has a gradient, the gradient and the state that is there.

    Numbers of state that the user has given another type are converted.
    """
    for name, parameter, group in named:
        if parameter.grad is not None:
            check_parameter(name, parameter, takes_complex=spec.takes_complex)
            check_gradient(name, parameter)
            held = state.get(parameter, {})
            if not isinstance(held, dict):
                raise TypeError(f"the state of {name} is {type(held).__name__}, and a dict is wanted")
            check_held_state(spec, name, parameter, group, held)
            _convert_numbers(spec, name, held)


def _convert_numbers(spec: RuleSpec, name: str, held: dict[str, Any]) -> None:
    for scalar in spec.scalars:
        value = held.get(scalar.name)
        if value is not None and not is_kept_number(value):
            held[scalar.name] = exact_number(f"state {scalar.name!r} of {name}", value, scalar.wanted, scalar.dtype)


def without_unstarted(
    spec: RuleSpec, state: Mapping[Any, dict[str, Any]], keys: Sequence[Any]
) -> dict[Any, dict[str, Any]]:
    """The state without that of the rule under ``keys``, with which no step has been taken: the next one is a first."""
    rule = {slot.name for slot in spec.slots} - {SLOW.name}
    result = dict(state)
    for key in keys:
        result[key] = {name: value for name, value in state.get(key, {}).items() if name not in rule}
        if not result[key]:
            del result[key]
    return result


def drop_state(state: MutableMapping[Tensor, dict[str, Any]], created: Sequence[Created]) -> None:
    """A step that was skipped leaves nothing behind, so that the next one is a first step again."""
    for _, parameter, slot in created:
        state[parameter].pop(slot)
        if not state[parameter]:
            state.pop(parameter)


def nonfinite_error(named: Iterable[tuple[str, Tensor, Any]], clip: ClipPolicy | None) -> RuntimeError:
    """The error of a step whose norm is not finite, with the parameters that it comes from."""
    names = [
        name
        for name, parameter, _ in named
        if parameter.grad is not None and not bool(torch.isfinite(parameter.grad).all())
    ]
    where = ", ".join(names) if names else "no single gradient: the sum of squares overflows float32"
    return RuntimeError(
        f"the gradient norm is not finite, and {clip} says to raise; not finite: {where}. Nothing was "
        'written. Lower the learning rate or the loss scale, or choose nonfinite="skip"'
    )
