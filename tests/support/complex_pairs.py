"""An optimizer over complex parameters, and one over real parameters that hold the same numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import torchclip
from builders import LOSS, OPTIMIZERS
from memory_guard import Guarded, Layout, same_bits
from runs import gradient_values, initial_values
from torchclip.state.real_view import real_dtype, real_view

CPU = torch.device("cpu")
DTYPES = (torch.complex64, torch.complex128)
REFUSING = (torchclip.GRDA, torchclip.LinBreg, torchclip.AdaBreg, torchclip.AdaGradNorm)
TAKING = [name for name, (cls, _) in OPTIMIZERS.items() if cls not in REFUSING]


def starts(layouts: tuple[Layout, ...], dtype: torch.dtype) -> list[Tensor]:
    """Parameters before the first step; their parts differ."""
    real = real_dtype(dtype)
    imaginary = gradient_values(layouts, real, 99)
    return [torch.complex(a.contiguous(), b.contiguous()) for a, b in zip(initial_values(layouts, real), imaginary)]


def gradients(layouts: tuple[Layout, ...], dtype: torch.dtype, step: int) -> list[Tensor]:
    """Those of a step."""
    parts = zip(*(gradient_values(layouts, real_dtype(dtype), number) for number in (step, step + 40)))
    return [torch.complex(a.contiguous(), b.contiguous()) for a, b in parts]


@dataclass
class Side:
    """One optimizer over memory that is watched."""

    optimizer: Any
    params: list[torch.nn.Parameter]
    guards: list[Guarded]
    view: Callable[[Tensor], Tensor]

    def give(self, layouts: tuple[Layout, ...], dtype: torch.dtype, step: int) -> None:
        """The gradients of a step."""
        for param, value, layout in zip(self.params, gradients(layouts, dtype, step), layouts):
            absent = step in layout.absent
            param.grad = None if absent else self.view(layout.guard_gradient(value, CPU).view)

    def numbers(self) -> dict[tuple[int, str], Tensor]:
        """Parameters and their state, as real numbers."""
        found = {}
        for position, param in enumerate(self.params):
            found[position, "parameter"] = real_view(param.detach())
            for name, value in self.optimizer.state.get(param, {}).items():
                found[position, name] = real_view(value)
        return found


class ComplexPair:
    """Both optimizers, which must write the same bits.

    Args:
        layouts: of the parameters; even positions are the first param group, odd ones the second.
        dtype: the complex type.
        build: makes an optimizer of param groups.
    """

    def __init__(
        self, layouts: tuple[Layout, ...], dtype: torch.dtype, build: Callable[[list[dict[str, Any]]], Any]
    ) -> None:
        self.layouts, self.dtype = layouts, dtype
        self.sides = [self._side(view, build) for view in (lambda tensor: tensor, torch.view_as_real)]

    def _side(self, view: Callable[[Tensor], Tensor], build: Callable[[list[dict[str, Any]]], Any]) -> Side:
        values = starts(self.layouts, self.dtype)
        guards = [layout.guard_parameter(value, CPU) for layout, value in zip(self.layouts, values)]
        params = [torch.nn.Parameter(view(guard.view)) for guard in guards]
        groups = [{"params": params[0::2]}, {"params": params[1::2], "lr": 0.25}]
        return Side(build(groups), params, guards, view)

    def steps(self, numbers: Sequence[int], **scaling: Tensor) -> None:
        """Steps of both, each of which must move something and nothing outside the parameters."""
        for number in numbers:
            before = self.sides[0].numbers()
            for side in self.sides:
                side.give(self.layouts, self.dtype, number)
                for name, value in scaling.items():
                    setattr(side.optimizer, name, value)
                side.optimizer.step(loss=LOSS)
            self.check(number)
            for position, layout in enumerate(self.layouts):
                start, end = before[position, "parameter"], self.sides[0].numbers()[position, "parameter"]
                if number in layout.absent or layout.numel == 0:
                    assert same_bits(start, end), layout.name

    def check(self, number: int) -> None:
        """Equal bits of everything that was written."""
        ours, theirs = (side.numbers() for side in self.sides)
        assert ours.keys() == theirs.keys()
        for (position, name), value in theirs.items():
            assert same_bits(ours[position, name], value), (number, self.layouts[position].name, name)
        for side in self.sides:
            for guard, layout in zip(side.guards, self.layouts):
                guard.check(layout.name)
        measured, expected = (side.optimizer.metrics() for side in self.sides)
        for name in expected.keys() - {"sparsity"}:  # which counts complex numbers
            assert same_bits(measured[name], expected[name]), name


def optimizer_of(name: str, groups: Any, **options: Any) -> Any:
    """The optimizer of this name, with steps that are large: one that is not taken shows."""
    cls, defaults = OPTIMIZERS[name]
    return cls(groups, **{**defaults, "lr": 0.5, **options})
