"""What an update rule is: hyperparameters, state, its step in the form of its paper, and where it comes from."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor

from torchclip.rules.norms import Norms, Scope
from torchclip.rules.state_numbers import COUNT, Wanted

Group = Mapping[str, Any]
State = dict[str, Tensor]
Stepped = tuple[Tensor, State]
"""The new parameter and the new state."""


class Extent(enum.Enum):
    """How many numbers a state tensor holds."""

    ELEMENT = "one for each element: the parameter's shape and strides"
    TENSOR = "a single one: shape []"
    ROW = "one for each row of the leading dimension, shape [rows, 1, ...]; below two dimensions, one for each element"

    def is_apart(self, parameter: Tensor) -> bool:
        """Whether such a state tensor of ``parameter`` holds other numbers than one for each element."""
        return self is Extent.TENSOR or (self is Extent.ROW and parameter.ndim >= 2)

    def shape(self, parameter: Tensor) -> torch.Size:
        """The shape of such a state tensor of ``parameter``."""
        if self is Extent.TENSOR:
            return torch.Size()
        if self is Extent.ROW and parameter.ndim >= 2:
            return torch.Size([parameter.shape[0], *[1] * (parameter.ndim - 1)])
        return parameter.shape


def copy_of(copy: Tensor, group: Group) -> Tensor:
    """The initial value of state that starts where the parameter is."""
    return copy


@dataclass(frozen=True)
class StateSlot:
    """One state tensor.

    Args:
        name: the key in ``optimizer.state[parameter]``.
        initial: ``group -> value`` that it holds everywhere at first.
        at_least_float32: True where the state must not be rounded, to a half-precision parameter's type or by a
            precision policy.
        extent: how many numbers it holds.
        has_own_type: True where its type does not depend on that of the other slots.
        non_negative: True where no value is below zero.
        optional: True where only some hyperparameters need it, so that a parameter may have other state without it.
        of_parameter: ``(copy of the parameter, group) -> tensor`` that it is at first in place of ``initial``.
    """

    name: str
    initial: Callable[[Group], float] = lambda group: 0.0
    at_least_float32: bool = False
    extent: Extent = Extent.ELEMENT
    has_own_type: bool = False
    non_negative: bool = False
    optional: bool = False
    of_parameter: Callable[[Tensor, Group], Tensor] | None = None

    def create(self, parameter: Tensor, group: Group) -> Tensor:
        """The tensor that this slot holds before the first step."""
        dtype = torch.promote_types(parameter.dtype, torch.float32) if self.at_least_float32 else parameter.dtype
        if self.of_parameter is not None:
            copy = parameter.detach().to(dtype, copy=True, memory_format=torch.preserve_format)
            return self.of_parameter(copy, group)
        shape, number = self.extent.shape(parameter), self.initial(group)
        value = complex(number, number) if dtype.is_complex else number  # the same in both parts
        if shape != parameter.shape:
            return torch.full(shape, value, dtype=dtype, device=parameter.device)
        return torch.full_like(parameter, value, dtype=dtype, memory_format=torch.preserve_format, requires_grad=False)


@dataclass(frozen=True)
class ScalarSlot:
    """One number of state per parameter, kept as a 0-dim tensor.

    Args:
        name: the key in ``optimizer.state[parameter]``.
        dtype: its type, and float64, as torch's, where that is torch's default type.
        initial: its value before the first step.
        wanted: the values that it can have.
    """

    name: str
    dtype: torch.dtype = torch.float32
    initial: float = 0.0
    wanted: Wanted = COUNT

    def create(self, device: torch.device | str) -> Tensor:
        """The tensor that this slot holds before the first step; on a GPU it is not waited for."""
        dtype = torch.promote_types(self.dtype, torch.get_default_dtype())
        return torch.full((), self.initial, dtype=dtype, device=device)


@dataclass(frozen=True)
class RuleSpec:
    """An update rule.

    The functions of a step have no side effects and work on tensors of the compute type. The gradient is the one that
    the rule sees, the parameter has shrunk by decoupled decay, and hyperparameters are numbers or 0-dim tensors.

    Args:
        name: the rule's name in ``csrc/rules/registry.h``.
        family: the functor that updates its elements, by its function in ``kernels/rules.py``.
        hyperparameters: keys of a param group, in the order of the C++ struct.
        slots: every state tensor the rule can have, in the order of the C++ functor.
        used_slots: the names of the slots that a param group needs.
        scalars: the numbers of state, in the order of the C++ functor; the first counts steps.
        conflict: for a param group, what is wrong with values each of which is right by itself; None for nothing.
        step: ``(parameter, gradient, state, group, first, norms) -> (new parameter, new state)``; ``first`` says that
            the state was made in this very step, and ``norms`` is None unless the rule clips itself. The numbers of the
            state (``step``, ``l1``) are 0-dim float64 tensors.
        accumulate: ``(gradient, state, group, first) -> new state``, of which a rule that clips itself measures the
            direction before it steps; None for others.
        clip_factor: ``(norms, group) -> factor on lr``, 0-dim, what a rule that clips itself reports; None for others.
        by_scope: for a rule whose step size comes from a sum of squared norms over all steps so far: the rule with the
            state that it has where those norms are taken over a scope. None for other rules.
        takes_complex: whether it updates complex parameters, as their real view.
        state_of: ``(parameter, state, group) -> new state``, from which a parameter of that value comes, for a rule
            whose new parameter is a function of its new state alone; None for others.
        first_differs: for a param group, whether a state of zeros and the coefficients of a later step would make
            another first step.
        aliases: what state is called in the checkpoints of the rule's authors, and what it is called here.
        citation: where the rule comes from.
    """

    name: str
    family: str
    hyperparameters: tuple[str, ...]
    slots: tuple[StateSlot, ...]
    used_slots: Callable[[Group], tuple[str, ...]]
    scalars: tuple[ScalarSlot, ...]
    step: Callable[[Tensor, Tensor, State, Group, bool, Norms | None], Stepped]
    citation: str
    accumulate: Callable[[Tensor, State, Group, bool], State] | None = None
    clip_factor: Callable[[Norms, Group], Tensor] | None = None
    conflict: Callable[[Group], str | None] | None = None
    first_differs: Callable[[Group], bool] = lambda group: False
    aliases: Mapping[str, str] = field(default_factory=dict)
    by_scope: Callable[[Scope], RuleSpec] | None = None
    takes_complex: bool = True
    state_of: Callable[[Tensor, State, Group], State] | None = None

    @property
    def clips_itself(self) -> bool:
        """Whether the rule measures its own direction and sets its step size by that norm."""
        return self.clip_factor is not None

    @property
    def sets_parameter(self) -> bool:
        """Whether the new parameter does not depend on what the old one was."""
        return self.state_of is not None

    def over(self, scope: Scope) -> RuleSpec:
        """The rule with the state that it has where its norms are taken over ``scope``."""
        return self if self.by_scope is None else self.by_scope(scope)

    def with_slot(self, slot: StateSlot) -> RuleSpec:
        """The rule with one more state tensor, which every param group needs."""
        used = self.used_slots
        return replace(self, slots=(*self.slots, slot), used_slots=lambda group: (*used(group), slot.name))

    def missing_state(self, state: Mapping[str, Any], group: Group) -> list[str]:
        """The names of the state entries that a parameter of ``group`` needs and ``state`` lacks."""
        wanted = [*self.used_slots(group), *map(attrgetter("name"), self.scalars)]
        return [name for name in wanted if state.get(name) is None]

    def create_state(
        self, name: str, parameter: Tensor, group: Group, numbers_on: torch.device | str = "cpu"
    ) -> Tensor:
        """The state entry called ``name`` as it is before the first step of ``parameter``, one of ``group``; a number
        of state on the device ``numbers_on``."""
        # What is made in inference mode could not be written to outside of it.
        if not torch.compiler.is_compiling() and torch.is_inference_mode_enabled():
            with torch.inference_mode(False), torch.no_grad():  # the former lets autograd record
                return self.create_state(name, parameter, group, numbers_on)
        for slot in self.slots:
            if slot.name == name:
                return slot.create(parameter, group)
        for scalar in self.scalars:
            if scalar.name == name:
                return scalar.create(numbers_on)
        raise KeyError(f"{self.name} has no state called {name!r}")
