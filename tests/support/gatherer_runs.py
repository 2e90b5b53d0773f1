"""Optimizers over awkward parameters that a gatherer reads, and what torch says of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from builders import OPTIMIZERS
from memory_guard import AWKWARD
from runs import gradient_values, initial_values
from torchclip.backends import native
from torchclip.backends.codes import SCOPES
from torchclip.state.parameter_state import create_state

CPU = torch.device("cpu")
DTYPE_ORDER = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
OPERANDS = 6  # of a parameter: itself, its gradient, three state tensors, slow weights
LATE = next(position for position, layout in enumerate(AWKWARD) if layout.name == "late")
MATRIX = next(position for position, layout in enumerate(AWKWARD) if layout.name == "many_rows")


def make_gatherer(*arguments: Any) -> Any:
    """What reads parameters, gradients and state for the plan of the triton backend."""
    if native.NATIVE is None:
        pytest.skip("the extension is not built")
    return native.NATIVE.Gatherer(*arguments)


@dataclass
class Read:
    """All that a gatherer says after a refresh."""

    changed: bool
    descriptions: list[Any]
    addresses: Tensor
    numbers: Tensor
    lrs: list[Tensor | None]

    @classmethod
    def of(cls, reader: Any, optimizer: torch.optim.Optimizer) -> Read:
        count, groups = sum(len(group["params"]) for group in optimizer.param_groups), len(optimizer.param_groups)
        addresses = torch.full((count, 10), -1)
        numbers = torch.full((groups, 12), -1.0, dtype=torch.float64)
        reader.addresses(addresses)
        reader.numbers(numbers)
        return cls(reader.take_changed(), reader.describe(), addresses, numbers, reader.lrs())

    def assert_equal(self, other: Read) -> None:
        assert self.changed == other.changed
        assert self.descriptions == other.descriptions
        assert torch.equal(self.addresses, other.addresses)
        torch.testing.assert_close(self.numbers, other.numbers, rtol=0, atol=0, equal_nan=True)
        assert [id(lr) for lr in self.lrs] == [id(lr) for lr in other.lrs]


def build(name: str, params: list[Tensor], **options: Any) -> torch.optim.Optimizer:
    """The optimizer over two param groups; the reference path, which runs everywhere, takes no step here."""
    cls, defaults = OPTIMIZERS[name]
    groups = [{"params": params[0::2]}, {"params": params[1::2], "lr": 0.05, "weight_decay": 0.0}]
    if "weight_decay" not in cls([torch.zeros(1)], **defaults, backend="reference").defaults:
        del groups[1]["weight_decay"]
    return cls([group for group in groups if group["params"]], **{**defaults, **options}, backend="reference")


def reader_of(optimizer: torch.optim.Optimizer, by_rows: bool = False) -> Any:
    spec, names = optimizer.spec, [slot.name for slot in optimizer.spec.slots]
    reader = make_gatherer(
        spec.name,
        optimizer._keys.described,
        [name for name in names if name != "slow"],
        [scalar.name for scalar in spec.scalars],
        SCOPES.index(optimizer.clips_by),
        "cpu",
    )
    reader.configure("slow" in names, by_rows)
    return reader


def awkward_parameters(dtype: torch.dtype) -> list[Tensor]:
    starts = initial_values(AWKWARD, dtype)
    return [torch.nn.Parameter(layout.guard_parameter(v, CPU).view) for layout, v in zip(AWKWARD, starts)]


def give_gradients(params: list[Tensor], step: int) -> None:
    """New ones, of the awkward layouts."""
    for param, value, layout in zip(params, gradient_values(AWKWARD, params[0].dtype, step), AWKWARD):
        param.grad = None if step in layout.absent else layout.guard_gradient(value, CPU).view


def parameters_of(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def complete(optimizer: torch.optim.Optimizer, attention: list[int]) -> None:
    """Makes the state of the parameters at these positions, as the optimizer does."""
    create_state(optimizer.spec, list(optimizer._named_parameters()), optimizer.state, attention, on_device=True)


def settled(reader: Any, optimizer: torch.optim.Optimizer) -> Read:
    """What it says once all state is there, and says again, known in other ways, when nothing changes."""
    complete(optimizer, reader.refresh(optimizer.param_groups, optimizer.state))
    assert reader.refresh(optimizer.param_groups, optimizer.state) == []
    first = Read.of(reader, optimizer)
    for _ in range(3):
        assert reader.refresh(optimizer.param_groups, optimizer.state) == []
        again = Read.of(reader, optimizer)
        assert not again.changed
        again.changed = first.changed
        again.assert_equal(first)
    return first


def operands_of(optimizer: torch.optim.Optimizer, parameter: Tensor, group: dict[str, Any]) -> list[Tensor | None]:
    """Parameter, gradient, three state tensors and slow weights, None for one that is absent."""
    spec, state = optimizer.spec, optimizer.state.get(parameter, {})
    used = spec.used_slots(group)
    slots = [state[slot.name] if slot.name in used else None for slot in spec.slots if slot.name != "slow"]
    if spec.by_scope is not None and len(slots) > 1 and slots[1].shape != parameter.shape:
        slots[1] = None  # sums apart
    return [parameter, parameter.grad, *[*slots, None, None, None][:3], state.get("slow")]


def assert_layout(layout: Any, operands: list[Tensor | None]) -> None:
    """Walking as the layout says, outermost dimension first, meets the elements of every operand in one order."""
    parameter = operands[0]
    assert len(layout) == 1 + OPERANDS
    sizes, of_parameter = layout[0], layout[1]
    assert list(of_parameter) == sorted(of_parameter, reverse=True)
    for strides, operand in zip(layout[1:], operands):
        assert (strides == ()) == (operand is None)
        if operand is not None:
            walks = sorted(zip(sizes, of_parameter, strides))
            assert walks == sorted(zip(operand.shape, parameter.stride(), operand.stride()))


def is_one_block(operands: list[Tensor | None]) -> bool:
    """Whether every operand fills a block of memory in the same order."""
    parameter = operands[0]
    if parameter.numel() == 0:
        return True
    walks = {tuple(s for s, n in zip(t.stride(), t.shape) if n > 1) for t in operands if t is not None}
    return len(walks) == 1 and sum((n - 1) * s for n, s in zip(parameter.shape, parameter.stride())) + 1 == (
        parameter.numel()
    )


def assert_as_torch_says(read: Read, optimizer: torch.optim.Optimizer) -> None:
    spec, position = optimizer.spec, 0
    for index, group in enumerate(optimizer.param_groups):
        for parameter in group["params"]:
            description, row = read.descriptions[position], read.addresses[position].tolist()
            position += 1
            if parameter.grad is None:
                assert description is None and row == [0] * 10
                continue
            operands = operands_of(optimizer, parameter, group)
            scalars = [optimizer.state[parameter][scalar.name] for scalar in spec.scalars]
            of_group, dtype, state_dtype, used, numel, layout, _, _, _, doubles = description
            first_state = next((tensor for tensor in operands[2:5] if tensor is not None), parameter)
            assert (of_group, DTYPE_ORDER[dtype], numel) == (index, parameter.dtype, parameter.numel())
            assert DTYPE_ORDER[state_dtype] == first_state.dtype
            assert used == sum(1 << slot for slot in range(3) if operands[2 + slot] is not None)
            assert (layout is None) == is_one_block(operands)
            if layout is not None:
                assert_layout(layout, operands)
            assert list(doubles) == [*(scalar.dtype == torch.float64 for scalar in scalars), False, False][:2]
            assert row[:OPERANDS] == [0 if tensor is None else tensor.data_ptr() for tensor in operands]
            assert row[6:8] == [*(scalar.data_ptr() for scalar in scalars), 0, 0][:2]
