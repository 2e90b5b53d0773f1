"""The state of the parameters: made when it is first needed, and given up when the step is not taken."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from torchclip.policies.clip import ClipPolicy
from torchclip.policies.modifiers import BESIDE_RULE
from torchclip.policies.precision import Precision
from torchclip.policies.precision.codec import absmax_of
from torchclip.policies.precision.policy import HALF_AND_FLOAT32
from torchclip.rules.rule_spec import RuleSpec, ScalarSlot, StateSlot
from torchclip.rules.state_numbers import exact_number, is_kept_number
from torchclip.rules.table import RULES
from torchclip.state.precision_state import check_precise_state, check_precision
from torchclip.state.reachable import check_reachable, check_writable
from torchclip.state.sharded import is_sharded, local_of
from torchclip.state.tensor_checks import check_gradient, check_parameter, check_state, lazy_reason

OF_SOME_RULE = frozenset(
    [slot.name for spec in RULES.values() for slot in spec.slots]
    + [scalar.name for spec in RULES.values() for scalar in spec.scalars if scalar.name != "step"]
    + ["acc_delta", "ax", "exp_inf", "prev"],
)
"""Names that tell whose state it is: those of the rules here, and of Adadelta, ASGD, Adamax and Rprop in torch."""

Unstarted = list[tuple[Tensor, Mapping[str, Tensor]]]
"""Parameters with whose state no step has been taken, and what of it they had then, by name."""


class Made(NamedTuple):
    """What one parameter was given.

    Args:
        position: the parameter's.
        parameter: whose state it is.
        tensors: state tensors by their names.
        version: autograd's, of the parameter before it is written.
        replaced: what there was in the place of some of them.
    """

    position: int
    parameter: Tensor
    tensors: dict[str, Tensor]
    version: int
    replaced: Mapping[str, Any] = {}


@dataclass
class Ledger:
    """What a step makes, until it is known whether it was taken.

    An exception may come at any time, Ctrl-C's between any two instructions: what is written here before it stands in
    the optimizer's state is found by :meth:`drop` later, in the next step at the latest.
    """

    made: list[Made] = field(default_factory=list)

    def give(self, state: MutableMapping[Tensor, dict[str, Any]], made: Made) -> None:
        """Puts what was made into ``state``, all at once."""
        held = state.get(made.parameter)
        before = {} if held is None else held
        replaced = {name: before[name] for name in made.tensors if before.get(name) is not None}
        self.made.append(made._replace(replaced=replaced))
        if held is None:
            state[made.parameter] = dict(made.tensors)
        else:
            held.update(made.tensors)

    def drop(self, state: MutableMapping[Tensor, dict[str, Any]], *, written: bool = True) -> None:
        """Takes it out again, so that the next step is a first step, and puts back what it replaced; not where the user
        has put something else in its place since.

        Args:
            state: as in ``optimizer.state``.
            written: that of parameters, too, that have been written since.
        """
        for made in self.made:
            if not written and made.parameter._version != made.version:
                continue
            held = state.get(made.parameter, {})
            own = [name for name, tensor in made.tensors.items() if held.get(name) is tensor]
            held.update({name: made.replaced[name] for name in own if name in made.replaced})
            for name in own:
                if name not in made.replaced:
                    del held[name]
            if not held:
                state.pop(made.parameter, None)


def create_state(
    spec: RuleSpec,
    named: Sequence[tuple[str, Tensor, Mapping[str, Any]]],
    state: MutableMapping[Tensor, dict[str, Any]],
    positions: Sequence[int],
    ledger: Ledger | None = None,
    lay_out: Callable[[RuleSpec, str, Tensor, Any], Any] | None = None,
    *,
    precision: Precision | None = None,
    make: Callable[[Tensor, Mapping[str, Any], Mapping[str, Any], torch.device | str], dict[str, Tensor]] | None = None,
    on_device: bool,
) -> None:
    """Checks the parameters at ``positions`` and makes the state they lack.

    Args:
        spec: the rule.
        named: every parameter with what errors call it and its group.
        state: as in ``optimizer.state``.
        positions: of those to look at.
        ledger: where what is made is written, if anywhere.
        lay_out: gives what is made of the rule, by its name, for a parameter the layout of that, where processes share
            it.
        precision: the precision policy.
        make: ``(parameter, group, its state, the device of numbers) -> what the state lacks, and what takes the place
            of codes in another order``, under one.
        on_device: whether numbers of state lie on their parameter's device, or on the host.
    """
    ledger = Ledger() if ledger is None else ledger
    wanted = [(position, *named[position]) for position in positions]
    check_all(spec, (named[position] for position in positions), state, precision)
    for position, name, parameter, group in wanted:
        check_reachable(name, parameter, state.get(parameter, {}))
        numbers_on = parameter.device if on_device else "cpu"
        if make is None:
            missing = spec.missing_state(state.get(parameter, {}), group)
            made = {slot: spec.create_state(slot, parameter, group, numbers_on) for slot in missing}
        else:
            made = make(parameter, group, state.get(parameter, {}), numbers_on)
        if lay_out is not None:
            made = {slot: lay_out(spec, slot, parameter, value) for slot, value in made.items()}
        check_reachable(name, parameter, made)
        if made:
            ledger.give(state, Made(position, parameter, made, parameter._version))
        held = state.get(parameter, {})
        for slot in spec.slots:
            # The kernels walk elements in any layout, and a number for each row in one alone.
            if slot.name in spec.used_slots(group) and slot.extent.is_apart(parameter):
                held[slot.name] = held[slot.name].contiguous()
        for scalar in spec.scalars:
            held[scalar.name] = held[scalar.name].to(numbers_on)


def foreign_entries(spec: RuleSpec, held: Mapping[Any, Any]) -> list[str]:
    """The entries of a parameter's state that other rules have, and this one has not."""
    own = {*(slot.name for slot in spec.slots), *(scalar.name for scalar in spec.scalars), *BESIDE_RULE}
    return sorted(name for name in OF_SOME_RULE - own if held.get(name) is not None)


def check_entries(spec: RuleSpec, name: str, held: Mapping[Any, Any]) -> None:
    """Raises when a parameter has some of the state that the rule always has, and not all; ``name`` is its own."""
    there, missing = [], []
    entries: tuple[StateSlot | ScalarSlot, ...] = (*spec.slots, *spec.scalars)
    for entry in entries:
        if held.get(entry.name) is None:
            if isinstance(entry, ScalarSlot) or not entry.optional:
                missing.append(entry.name)
        elif entry.name not in BESIDE_RULE:
            there.append(entry.name)
    if there and missing:
        raise RuntimeError(
            f"the state of {name} has {there} and lacks {missing}, and {spec.name} needs both: load a checkpoint that "
            "has all of it, or give it no state at all, with which it starts anew"
        )


def check_held_state(
    spec: RuleSpec,
    name: str,
    parameter: Tensor,
    group: Mapping[str, Any],
    held: Mapping[str, Any],
    precision: Precision | None = None,
) -> None:
    """Raises when the state that a parameter has does not fit; ``name`` is what errors call it."""
    check_entries(spec, name, held)
    used, slots = spec.used_slots(group), []
    for slot in spec.slots:
        if slot.name in used and held.get(slot.name) is not None:
            slots.append((slot, held[slot.name]))
    if precision is None:
        check_state(name, slots, parameter)
    else:
        check_precise_state(name, precision.types(spec, parameter), slots, parameter, held)


def check_all(
    spec: RuleSpec,
    named: Iterable[tuple[str, Tensor, Mapping[str, Any]]],
    state: Mapping[Tensor, Any],
    precision: Precision | None = None,
) -> None:
    """Checks every parameter that has a gradient, the gradient and the state that is there.

    Numbers of state that the user has given another type are converted.
    """
    for name, parameter, group in named:
        if parameter.grad is not None:
            held = state.get(parameter, {})
            if not isinstance(held, dict):
                raise TypeError(f"the state of {name} is {type(held).__name__}, and a dict is wanted")
            check_parameter(name, parameter, takes_complex=spec.takes_complex)
            check_writable(name, parameter, held)
            if precision is not None:
                check_precision(name, parameter, group, precision)
            check_gradient(name, parameter, () if precision is None else HALF_AND_FLOAT32)
            check_held_state(spec, name, parameter, group, held, precision)
            _convert_numbers(spec, name, held)


def _convert_numbers(spec: RuleSpec, name: str, held: dict[str, Any]) -> None:
    for scalar in spec.scalars:
        value = held.get(scalar.name)
        if value is not None and (not is_kept_number(value) or lazy_reason(value) is not None):
            held[scalar.name] = exact_number(f"state {scalar.name!r} of {name}", value, scalar.wanted, scalar.dtype)


def still_unstarted(unstarted: Unstarted, state: Mapping[Tensor, Mapping[str, Any]]) -> Unstarted:
    """Those of them whose state the user has not replaced since."""
    return [
        (parameter, slots)
        for parameter, slots in unstarted
        if slots and all(state.get(parameter, {}).get(name) is tensor for name, tensor in slots.items())
    ]


def positions_of(unstarted: Unstarted, param_groups: Sequence[Mapping[str, Any]]) -> set[int]:
    """Where those parameters stand among all."""
    found = {id(parameter) for parameter, _ in unstarted}
    everyone = [parameter for group in param_groups for parameter in group["params"]]
    return {position for position, parameter in enumerate(everyone) if id(parameter) in found}


def without_unstarted(
    spec: RuleSpec, state: Mapping[Any, dict[str, Any]], keys: Sequence[Any]
) -> dict[Any, dict[str, Any]]:
    """The state without that of the rule under ``keys``, with which no step has been taken: the next one is a first."""
    numbers = {scalar.name for scalar in spec.scalars}
    rule = {name for slot in spec.slots for name in (slot.name, absmax_of(slot.name))} - BESIDE_RULE | numbers
    result = dict(state)
    for key in keys:
        result[key] = {name: value for name, value in state.get(key, {}).items() if name not in rule}
        if not result[key]:
            del result[key]
    return result


def nonfinite_error(
    named: Iterable[tuple[str, Tensor, Any]], clip: ClipPolicy | None, given: Tensor | None
) -> RuntimeError:
    """The error of a step whose norm is not finite, with the parameters that it comes from.

    Args:
        named: the parameters and what errors call them.
        clip: the policy that says to raise.
        given: the norm that set_grad_norm() gave the step, 0-dim; None for one that was measured.
    """
    if given is not None and not bool(given.isfinite()):
        return RuntimeError(
            f"set_grad_norm() gave the step a norm of {float(given)}, and {clip} says to raise. Nothing was written. "
            'Give it a finite one, or choose nonfinite="skip"'
        )
    names, is_split = [], False
    with torch.no_grad():
        for name, parameter, _ in named:
            if parameter.grad is not None and not bool(torch.isfinite(local_of(parameter.grad)).all()):
                names.append(name)
            is_split = is_split or is_sharded(parameter)
    nowhere = "none of this process's" if is_split else "no single gradient: the sum of squares overflows float32"
    where = ", ".join(names) if names else nowhere
    return RuntimeError(
        f"the gradient norm is not finite, and {clip} says to raise; not finite: {where}. Nothing was "
        'written. Lower the learning rate or the loss scale, or choose nonfinite="skip"'
    )
