"""Param groups and state with this process's parts in the place of DTensors: what a compiled plan reads and writes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from torchclip.distributed import parts as in_python
from torchclip.distributed.shards import aligned
from torchclip.state.sharded import held_part, is_sharded, layout_reason, waited_part


class LocalView:
    """Of one optimizer; brought up to date before every step.

    The parts themselves stand in it, so that one that is moved or replaced is seen. They have a gradient during a step
    alone.

    Attributes:
        groups: the param groups.
        state: by the parameters of those groups.

    Args:
        of_elements: the names of state that every parameter has, of one number for each element.
        looks_at_writes: whether the versions of parts tell of what was written to their DTensors.
        loops: of which module; ``torchclip._torch`` has faster ones.
    """

    def __init__(self, of_elements: Collection[str], *, looks_at_writes: bool, loops: Any = in_python) -> None:
        self._of_elements, self._looks_at_writes, self._loops = of_elements, looks_at_writes, loops
        self.groups: list[dict[str, Any]] = []
        self.state: dict[Tensor, Any] = {}
        self._astray: list[int] = []
        self._of_groups: list[list[Tensor]] = []
        self._parameters: list[Tensor] = []  # of all of them
        self._locals: list[Tensor] = []
        self._sharded: list[Tensor] = []  # those of the parameters that are DTensors
        self._parts: list[Tensor] = []  # of those
        self._specs: list[Any] = []  # of those and their gradients, where they were last found alike
        self._versions: list[int] = []  # of those DTensors after the last step
        self._dicts: list[Any] = []  # the values of the optimizer's state
        self._values: list[Any] = []  # all that they hold
        self._sharded_values: list[Tensor] = []
        self._parts_of_values: list[Tensor] = []
        self._held: dict[int, Any] = {}  # state by the identities of the parts

    def refresh(self, param_groups: Sequence[dict[str, Any]], state: Mapping[Tensor, Any]) -> None:
        """Reads everything, and lends the parts their gradients.

        Raises:
            RuntimeError: torch's, for a gradient that does not fit its parameter.
        """
        self._read_parameters(param_groups)
        self._read_state(state)
        if self._looks_at_writes:
            self._count_writes()
        for position in self._loops.lend_gradients(self._sharded, self._parts, self._specs):
            parameter = self._sharded[position]
            gradient = parameter.grad
            self._parts[position].grad = None if gradient is None else _part_of_gradient(gradient, parameter)

    def is_of(self, param_groups: Sequence[dict[str, Any]]) -> bool:
        """Whether the param groups still hold the parameters that were last read."""
        same: bool = self._loops.hold_parameters(param_groups, self._of_groups)
        return same

    @property
    def astray(self) -> list[int]:
        """The positions of parameters with a gradient, and with state that is spread in another way than they are."""
        return [position for position in self._astray if self._parameters[position].grad is not None]

    def take_gradients_back(self) -> None:
        """After a step."""
        self._loops.take_gradients_back(self._parts)

    def count_versions(self) -> None:
        """Tells autograd of DTensors that they were written, where those of their parts alone were counted."""
        self._loops.count_versions(self._sharded, self._sharded_values)
        if self._looks_at_writes:
            self._versions = [one._version for one in self._sharded]

    def original(self, part: Tensor, tensors: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Any]]:
        """The parameter that a part is one of, and its state of these names where ``tensors`` are parts of that."""
        owner = next((whole for whole, own in zip(self._parameters, self._locals, strict=True) if own is part), part)
        held = self._held.get(id(part), {})
        found = {}
        for name, tensor in tensors.items():
            whole = held.get(name)
            found[name] = whole if isinstance(whole, Tensor) and held_part(whole) is tensor else tensor
        return owner, found

    def _count_writes(self) -> None:
        """Tells autograd of parts that they were written, where their DTensors have been since the last step."""
        known = self._versions if len(self._versions) == len(self._sharded) else [-1] * len(self._sharded)
        each = zip(self._sharded, self._parts, known, strict=True)
        torch.autograd.graph.increment_version([part for one, part, version in each if one._version != version])

    def _read_parameters(self, param_groups: Sequence[dict[str, Any]]) -> None:
        same = self.is_of(param_groups) and self._loops.hold_parts(self._sharded, self._parts)
        if not same:
            self._of_groups = [list(group["params"]) for group in param_groups]
            self._parameters = [parameter for params in self._of_groups for parameter in params]
            self._locals = [held_part(parameter) for parameter in self._parameters]
            self._sharded = [parameter for parameter in self._parameters if is_sharded(parameter)]
            self._parts = [held_part(parameter) for parameter in self._sharded]
            self._specs = [None] * (2 * len(self._parts))
            for parameter, part in zip(self._sharded, self._parts, strict=True):
                _allow_gradient(parameter, part)
            self.groups = [{} for _ in param_groups]
            self._dicts = [None]  # the state is read anew
        begin = 0
        for own, group in zip(self.groups, param_groups, strict=True):
            count = len(group["params"])
            if len(own) != len(group):
                own.clear()
            known = own.get("params")
            own.update(group)
            # The same list where nothing has changed: the plan looks at what it holds.
            own["params"] = known if same and known is not None else self._locals[begin : begin + count]
            begin += count

    def _read_state(self, state: Mapping[Tensor, Any]) -> None:
        same = self._loops.hold_values(state, self._dicts, self._values)
        if same and self._loops.hold_parts(self._sharded_values, self._parts_of_values):
            return
        self._dicts = list(state.values())
        self._values = in_python.values_of(self._dicts)
        self._sharded_values = [value for value in self._values if isinstance(value, Tensor) and is_sharded(value)]
        self._parts_of_values = [held_part(value) for value in self._sharded_values]
        self.state, self._held, self._astray = {}, {}, []
        for position, (parameter, part) in enumerate(zip(self._parameters, self._locals, strict=True)):
            held = state.get(parameter)
            if held is None:
                continue
            self._held[id(part)] = held
            is_whole = part is parameter or not isinstance(held, dict)
            self.state[part] = held if is_whole else {name: _part(value) for name, value in held.items()}
            if not is_whole and any(_is_astray(held.get(name), parameter) for name in self._of_elements):
                self._astray.append(position)


def _part(value: Any) -> Any:
    return held_part(value) if isinstance(value, Tensor) else value


def _is_astray(value: Any, parameter: Any) -> bool:
    """Whether it is a DTensor that is spread in another way than the parameter; a plain one does not fit."""
    if not isinstance(value, Tensor) or not is_sharded(value):
        return False
    return layout_reason(value, parameter, parameter.placements) is not None


def _allow_gradient(parameter: Any, part: Any) -> None:
    """Lets a part have a gradient of another type where its parameter may: torch keeps them in one type else."""
    if getattr(parameter, "grad_dtype", parameter.dtype) is not parameter.dtype:
        part.grad_dtype = parameter.grad_dtype


def _part_of_gradient(gradient: Any, parameter: Any) -> Tensor:
    """This process's, in the layout of the parameter. What a collective has not finished yet is waited for."""
    if type(gradient) is type(parameter):  # as nearly always: what follows runs for every parameter in every step
        spec, wanted = gradient._spec, parameter._spec
        is_alike = spec is wanted or (spec.mesh is wanted.mesh and spec.placements == wanted.placements)
        part: Tensor = gradient._local_tensor
        if is_alike and type(part) is Tensor:
            return part
    return waited_part(aligned(gradient, parameter))
