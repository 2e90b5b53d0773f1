"""Three optimizers that get the same: the tested one, and the reference path in its types and in float64.

After every step they are compared, and then the two of the reference path take over what the tested one has come to. So
no error grows from step to step, and what differs comes from the last step and what happened since the one before. A
trio that runs free does not take over: errors that are too small to show in one step, and of one sign, add up.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

from builders import unchanged
from memory_guard import Guarded, same_bits
from memory_watch import Leaf, Place, Watch
from records import SEED, Case, Clip
from reference_trio_checks import compare, made_for_no_step, values_before


class Trio:
    """The tested optimizer over ``params``, on watched memory; ``copied`` over ``copies`` of their types, and ``exact``
    over ``doubles``, both on the reference path."""

    def __init__(self, case: Case, leaves: list[Leaf], backend: str, free: bool = False) -> None:
        self.case, self.backend, self.free = case, backend, free
        self.watch = Watch()
        self.params: list[Parameter] = []
        self.copies: list[Parameter] = []
        self.doubles: list[Parameter] = []
        self.steps = 0
        self.counts_clipping = True
        for leaf in leaves:
            self.grow(leaf)
        first = (len(leaves) + 1) // 2
        self.tested, self.copied, self.exact = (
            self.build([params[:first], params[first:]], chosen, SEED)
            for params, chosen in ((self.params, backend), (self.copies, "reference"), (self.doubles, "reference"))
        )

    def build(self, groups: list[list[Parameter]], backend: str, seed: int) -> torch.optim.Optimizer:
        """An optimizer of the case over these groups."""
        rule, step_size = self.case.rule, self.case.pace.step_size
        optimizer = rule.cls(
            [{"params": params, **(rule.second if number else {})} for number, params in enumerate(groups)],
            **rule.options,
            **({} if step_size is None else {"step_size": step_size}),
            clip=self.case.clip.policy,
            extensions=self.case.extras.extensions,
            seed=seed,
            backend=backend,
        )
        assert optimizer.backend == backend
        return optimizer

    @property
    def plain(self) -> Iterator[tuple[torch.optim.Optimizer, list[Parameter]]]:
        """The two on the reference path."""
        return iter(((self.copied, self.copies), (self.exact, self.doubles)))

    @property
    def all(self) -> Iterator[tuple[torch.optim.Optimizer, list[Parameter]]]:
        """The tested one first."""
        return iter(((self.tested, self.params), *self.plain))

    # Parameters, state and where they lie.

    def random(self, shape: torch.Size | tuple[int, ...], key: int) -> Tensor:
        """Numbers with both signs and sizes between 1/4 and 2, so that float16 holds their squares."""
        generator = torch.Generator().manual_seed(key)
        signs = (torch.rand(shape, generator=generator) - 0.5).sign()
        return signs * (0.25 + 1.75 * torch.rand(shape, generator=generator))

    def grow(self, leaf: Leaf) -> int:
        """Makes a parameter that is in no group yet."""
        position = len(self.params)
        values = self.random(leaf.shape, 1000 + position).to(leaf.dtype)
        self.params.append(Parameter(values))
        self.copies.append(Parameter(values.clone()))
        self.doubles.append(Parameter(values.double()))
        self.place(position, leaf.place)
        return position

    def place(self, position: int, place: Place, dtype: torch.dtype | None = None) -> None:
        """Puts the data of a parameter elsewhere, as ``p.data = ...`` does."""
        param = self.params[position]
        guard = place.guard(param.detach().to(dtype or param.dtype))
        param.data = guard.view
        self.watch.add(f"parameter {position}", guard, lambda: self.params[position])
        for copies, kept in ((self.copies, param.dtype), (self.doubles, torch.float64)):
            copies[position].data = param.detach().to(kept, copy=True)
        self.follow(position)

    def follow(self, position: int) -> None:
        """The plain parameters are dense; in the order of the tested one where draws go by the order in memory."""
        param = self.params[position]
        strides = param.stride()
        order = sorted(range(param.ndim), key=lambda dim: -strides[dim]) if self.case.draws else range(param.ndim)
        for copies in (self.copies, self.doubles):
            plain = torch.empty_permuted(param.shape, list(order), dtype=copies[position].dtype)
            copies[position].data = plain.copy_(copies[position].detach())

    def at(self, number: int) -> int:
        """The position that a drawn number stands for."""
        return number % len(self.params)

    def cast(self, position: int, dtype: torch.dtype, place: Place) -> None:
        """Casts a parameter, as ``model.to(dtype)`` does, and leaves its state behind."""
        for _, params in self.all:
            params[position].grad = None
        for name in made_for_no_step(self, position):
            self.tested.state[self.params[position]].pop(name)  # a copy of the parameter before it was rounded, say
        self.place(position, place, dtype)

    def adopt(self, twin: torch.optim.Optimizer) -> None:
        """Goes on with a copy of the tested optimizer, which has parameters of its own."""
        self.tested = twin
        self.params = [param for group in twin.param_groups for param in group["params"]]
        for position in range(len(self.params)):
            self.follow(position)

    def fits(self, state_dict: dict[str, Any]) -> bool:
        """Whether a checkpoint is of as many parameters in as many groups."""
        sizes = [len(group["params"]) for group in self.tested.param_groups]
        return sizes == [len(group["params"]) for group in state_dict["param_groups"]]

    def place_state(self, position: int, place: Place, factor: float) -> None:
        """Puts the state tensors of a parameter elsewhere, scaled, as a tool writes to ``optimizer.state[p]``."""
        state = self.tested.state.get(self.params[position], {})
        for name in self.slots(self.copied.state.get(self.copies[position], {})):
            guard = place.guard(state[name] * factor)
            state[name] = guard.view
            self.watch.add(
                f"{name} of parameter {position}",
                guard,
                lambda name=name: self.tested.state.get(self.params[position], {}).get(name),
            )
        for optimizer, params in self.plain:
            held = optimizer.state.get(params[position], {})
            for name in self.slots(held):
                held[name].mul_(factor)

    def slots(self, state: dict[str, Tensor]) -> list[str]:
        """The names of the state tensors, without those of numbers."""
        numbers = {scalar.name for scalar in self.tested.spec.scalars}
        return [name for name in state if name not in numbers]

    def drop_state_of_skipped_steps(self) -> None:
        """Of SGD's, which starts otherwise than it goes on: without dampening the device does not note that it is new,
        and dampening that is written before the first step comes too late."""
        for position, param in enumerate(self.params):
            if self.tested.spec.name == "sgd":
                for name in made_for_no_step(self, position):
                    self.tested.state[param].pop(name)

    def cast_state(self, position: int, dtype: torch.dtype) -> None:
        """Casts the state of a parameter; what is float32 beside half-precision parameters stays so."""
        slots = {slot.name: slot for slot in self.tested.spec.slots}
        for optimizer, params in self.all:
            state = optimizer.state.get(params[position], {})
            for name in self.slots(state):
                keeps = slots[name].at_least_float32 or slots[name].has_own_type
                cast = state[name].to(torch.promote_types(dtype, torch.float32) if keeps else dtype)
                state[name] = cast.double() if optimizer is self.exact else cast

    # The step.

    def give_gradients(
        self,
        size: float = 1.0,
        absent: frozenset[int] = frozenset(),
        place: Place = Place.CONTIGUOUS,
        in_place: bool = False,
    ) -> None:
        """New gradients for all parameters but those at the positions ``absent``; in the memory of the last ones, where
        there are some of the right type, if ``in_place``."""
        for position, param in enumerate(self.params):
            if position in absent:
                param.grad = None
            else:
                key = 100 * self.steps + position
                value = (size * self.random(param.shape, key)).to(param.dtype)
                if in_place and param.grad is not None and 0 not in param.grad.stride():
                    param.grad.copy_(value)
                else:
                    param.grad = self.watched_gradient(position, place.guard(value))
        self.hand_on_gradients()

    def watched_gradient(self, position: int, guard: Guarded) -> Tensor:
        self.watch.add(f"gradient {position}", guard, lambda: self.params[position].grad)
        return guard.view

    def spoil(self, number: int, value: float) -> bool:
        """Writes into one gradient; False where that has no element."""
        gradient = self.params[self.at(number)].grad
        assert gradient is not None
        gradient[(slice(0, 1),) * gradient.ndim] = value
        self.hand_on_gradients()
        return gradient.numel() > 0

    def hand_on_gradients(self) -> None:
        """The gradients of the tested parameters, for the plain ones too."""
        for position, param in enumerate(self.params):
            for copies in (self.copies, self.doubles):
                copy = copies[position]
                copy.grad = None if param.grad is None else param.grad.to(copy.dtype, copy=True).contiguous()

    def step(
        self,
        loss: float = 1.0,
        scaler: dict[str, Tensor | None] | None = None,
        by_closure: bool = False,
        taken: bool = True,
    ) -> str | None:
        """A step of each, and the comparison. Returns the error that the step ended with, if any."""
        self.steps += 1
        self.watch.settle()
        before = values_before(self)
        given = [None if p.grad is None else p.grad.clone() for p in self.params]
        refusal = attempt(self.copied, loss, scaler, by_closure)
        if refusal is None:
            assert attempt(self.tested, loss, scaler, by_closure) is None
            assert attempt(self.exact, loss, scaler, by_closure) is None
        else:
            with unchanged(self.tested):
                assert attempt(self.tested, loss, scaler, by_closure) == refusal
        for position, (param, value) in enumerate(zip(self.params, given)):
            assert value is None or same_bits(param.grad, value), f"gradient {position} was written"
        self.watch.check()
        if refusal is None:
            compare(self, before, taken and any(value is not None for value in given))
            if not self.free or not all(param.isfinite().all() for param in self.params):
                self.hand_over()
        return refusal

    def skipped_step(self, scaler: dict[str, Tensor | None] | None = None) -> str | None:
        """A step that must leave parameters and state alone."""
        with unchanged(self.tested):
            return self.step(scaler=scaler, taken=False)

    def refused_step(self) -> str:
        """A step that all refuse, before anything of the tested one is written; what that says."""
        self.give_gradients()
        said = []
        with unchanged(self.tested):
            for optimizer, _ in self.all:
                with pytest.raises((RuntimeError, TypeError, ValueError, KeyError)) as refusal:
                    optimizer.step(loss=1.0)
                said.append(str(refusal.value))
        return said[0]

    def hand_over(self) -> None:
        """The tested optimizer's values, for the others to go on from. What has overflowed starts anew in all."""
        for position, param in enumerate(self.params):
            if not param.isfinite().all():
                with torch.no_grad():
                    param.copy_(self.random(param.shape, position))
                self.forget(position)
            for optimizer, params in self.plain:
                params[position].data.copy_(param.detach())
                for name, value in optimizer.state.get(params[position], {}).items():
                    value.copy_(self.tested.state[param][name])
        for optimizer, _ in self.plain:
            for ours, theirs in zip(self.tested.param_groups, optimizer.param_groups):
                for name, value in theirs.get("shared", {}).items():
                    value.copy_(ours["shared"][name])

    def forget(self, position: int) -> None:
        """Drops the state of a parameter."""
        for optimizer, params in self.all:
            optimizer.state.pop(params[position], None)

    def configure(self, clip: Clip) -> None:
        """Another clip policy."""
        self.case = replace(self.case, clip=clip)
        for optimizer, _ in self.all:
            optimizer.clip = clip.policy
        self.counts_clipping = False  # how the count goes on is tested apart


def attempt(
    optimizer: torch.optim.Optimizer, loss: float, scaler: dict[str, Tensor | None] | None, by_closure: bool
) -> str | None:
    """A step; with what it was refused, if it was."""
    for name, value in (scaler or {}).items():
        setattr(optimizer, name, value)
    try:
        if by_closure:
            optimizer.step(lambda: torch.tensor(loss))
        else:
            optimizer.step(loss=loss)
    except RuntimeError as error:
        return str(error)
    finally:
        for name in scaler or {}:
            delattr(optimizer, name)
    return None
