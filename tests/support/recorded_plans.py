"""Optimizers over awkward parameters, what a plan hands to the kernels for them, and what torch says of them."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from builders import OPTIMIZERS
from memory_guard import AWKWARD
from runs import gradient_values, initial_values
from torchclip.backends import native
from torchclip.backends.codes import NO_CLIP, STEPPED, UNIT_CLIP, GroupNumbers
from torchclip.backends.plan import described
from torchclip.state.parameter_state import create_state

pytest.importorskip("triton", reason="Triton is an optional dependency of the package")

from torchclip.backends.triton import columns
from torchclip.backends.triton.plan_tables import RunTables, Tables

CPU = torch.device("cpu")
DTYPE_ORDER = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
OPERANDS = 6  # of a parameter: itself, its gradient, three state tensors, slow weights
LATE = next(position for position, layout in enumerate(AWKWARD) if layout.name == "late")
MATRIX = next(position for position, layout in enumerate(AWKWARD) if layout.name == "many_rows")


class Recorder:
    """In the place of what launches Triton's kernels: keeps the tables that it is handed, and launches nothing."""

    piece_bytes = 1 << 19
    has_updated = False

    def __init__(self) -> None:
        self.placed = 0
        self.at_launch: Callable[[], None] = lambda: None

    def place(
        self, tables: list[Tensor | None], runs: list[tuple[int, ...]], constants: dict[str, Any], exchanges: list[Any]
    ) -> None:
        self.placed += 1
        self.tables, self.runs, self.constants = tables, runs, constants

    def run(self, *_: Any) -> None:
        """In the place of a step on the device."""
        self.at_launch()


def words(address: int, count: int) -> Tensor:
    """Memory as int64 [count]."""
    return torch.tensor(list((ctypes.c_int64 * count).from_address(address)) if count else [], dtype=torch.int64)


def layout_of(tensor: Tensor) -> list[list[int]] | None:
    """Sizes and strides, from a tensor's words in the table."""
    dimensions = int(tensor.view(torch.int32)[columns.TENSOR_DIMENSIONS])
    if dimensions == 0:
        return None
    found = words(int(tensor[columns.TENSOR_LAYOUT]), (1 + OPERANDS) * dimensions).view(-1, dimensions)
    layout: list[list[int]] = found.tolist()
    return layout


@dataclass
class Read:
    """What a plan hands to its kernels for a step."""

    changed: bool  # the tables are other ones than in the step before
    tensors: Tensor  # int64 [tensors, TENSOR_WORDS]
    gradients: Tensor  # int64 [tensors], addresses
    sources: Tensor  # int64 [sets of coefficients, SOURCE_WORDS]
    groups: Tensor  # float64 [groups, GROUP_WORDS]
    chunks: Tensor  # int64 [chunks, CHUNK_WORDS]
    runs: list[RunTables]
    layouts: list[list[list[int]] | None]  # sizes and strides of each tensor; None where its operands lie alike

    @property
    def positions(self) -> list[int]:
        """The parameters that step."""
        return self.number(self.tensors, columns.TENSOR_NUMBER)

    @staticmethod
    def number(structs: Tensor, place: int) -> list[int]:
        """An int32 field of each."""
        found: list[int] = structs.view(torch.int32)[:, place].tolist()
        return found

    def addresses(self, index: int) -> list[int]:
        """Of the operands of a tensor, by its place in the tables."""
        found = self.tensors[index, :OPERANDS].tolist()
        found[1] = int(self.gradients[index])
        return found

    def run_of(self, index: int) -> RunTables | None:
        """The run that a tensor is in; None for one without elements."""
        chunks = self.number(self.chunks, columns.CHUNK_TENSOR)
        return next((run for run in self.runs if index in chunks[run.first : run.first + run.chunks]), None)

    def assert_equal(self, other: Read) -> None:
        """But for where the plans keep their own tables."""
        ours, theirs = self.tensors.clone(), other.tensors.clone()
        ours[:, columns.TENSOR_LAYOUT] = theirs[:, columns.TENSOR_LAYOUT] = 0
        for one, another in ((ours, theirs), (self.gradients, other.gradients), (self.sources, other.sources)):
            assert torch.equal(one, another)
        fields = [0, 1, 2, 4, 5]  # what lies between is nothing's
        assert torch.equal(self.chunks.view(torch.int32)[:, fields], other.chunks.view(torch.int32)[:, fields])
        assert self.runs == other.runs
        assert self.layouts == other.layouts
        torch.testing.assert_close(self.groups, other.groups, rtol=0, atol=0, equal_nan=True)


class Reader:
    """A plan of the triton backend for an optimizer, whose kernels are not launched."""

    def __init__(self, optimizer: torch.optim.Optimizer, by_rows: bool = False) -> None:
        if native.NATIVE is None:
            pytest.skip("the extension is not built")
        spec, names = optimizer.spec, [slot.name for slot in optimizer.spec.slots]
        recorder = Recorder()
        self._recorder, self._seen = recorder, 0
        self.plan = native.NATIVE.TritonPlan(
            *described(spec, optimizer.clips_by, optimizer._keys),
            "cpu",
            lambda device: recorder,  # and not this, which no collector would find there
        )
        self._optimizer = optimizer
        self.configure("slow" in names, by_rows)

    def configure(self, lookahead: bool, by_rows: bool, groups: Sequence[GroupNumbers] = ()) -> None:
        """Tells it of the modifiers."""
        clip = {"clip": UNIT_CLIP, "unit_eps": 1e-3, "limit": 1.0} if by_rows else {"clip": NO_CLIP}
        self.plan.configure({**clip, "lookahead_k": 1000 if lookahead else 0}, groups)

    def at_launch(self, called: Callable[[], None]) -> None:
        """Calls it in every step where kernels would be launched."""
        self._recorder.at_launch = called

    def refresh(self) -> list[int]:
        """The positions of parameters that cannot step as they are."""
        found: list[int] = self.plan.refresh(self._optimizer.param_groups, self._optimizer.state)
        return found

    def read(self) -> Read:
        """Takes a step, which must be possible."""
        groups = self._optimizer.param_groups
        assert self.plan.step(groups, self._optimizer.state, None, None, None) == STEPPED
        made, self._seen = self._recorder.placed != self._seen, self._recorder.placed
        tables = Tables(*self._recorder.tables)
        places, tensors = tables.finish.tolist(), tables.tensors.view(-1, columns.TENSOR_WORDS).clone()
        sets = tables.finish.view(torch.int32)[columns.PLACE_COEFFICIENTS_COUNT].item()
        return Read(
            made,
            tensors,
            tables.gradients.clone(),
            words(places[columns.PLACE_SOURCES], columns.SOURCE_WORDS * sets).view(-1, columns.SOURCE_WORDS),
            words(places[columns.PLACE_GROUPS], columns.GROUP_WORDS * len(groups))
            .view(torch.float64)
            .view(-1, columns.GROUP_WORDS),
            tables.chunks.view(-1, columns.CHUNK_WORDS).clone(),
            [RunTables(*run) for run in self._recorder.runs],
            [layout_of(tensor) for tensor in tensors],
        )


def build(name: str, params: list[Tensor], **options: Any) -> torch.optim.Optimizer:
    """The optimizer over two param groups; the reference path, which runs everywhere, takes no step here."""
    cls, defaults = OPTIMIZERS[name]
    groups = [{"params": params[0::2]}, {"params": params[1::2], "lr": 0.05, "weight_decay": 0.0}]
    if "weight_decay" not in cls([torch.zeros(1)], **defaults, backend="reference").defaults:
        del groups[1]["weight_decay"]
    return cls([group for group in groups if group["params"]], **{**defaults, **options}, backend="reference")


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


def settled(reader: Reader, optimizer: torch.optim.Optimizer) -> Read:
    """What it says once all state is there, and says again, known in other ways, when nothing changes."""
    complete(optimizer, reader.refresh())
    first = reader.read()
    for _ in range(3):
        assert reader.refresh() == []
        again = reader.read()
        assert not again.changed
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


def assert_layout(layout: list[list[int]], operands: list[Tensor | None]) -> None:
    """Walking as the layout says, outermost dimension first, meets the elements of every operand in one order."""
    parameter = operands[0]
    assert len(layout) == 1 + OPERANDS
    sizes, of_parameter = layout[0], layout[1]
    assert of_parameter == sorted(of_parameter, reverse=True)
    for strides, operand in zip(layout[1:], operands):
        if operand is None:
            assert not any(strides)
        else:
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
    spec, parameters = optimizer.spec, parameters_of(optimizer)
    assert read.positions == [i for i, parameter in enumerate(parameters) if parameter.grad is not None]
    of_groups = [index for index, group in enumerate(optimizer.param_groups) for _ in group["params"]]
    sets = read.number(read.tensors, columns.TENSOR_COEFFICIENTS)
    for index, position in enumerate(read.positions):
        parameter, group = parameters[position], of_groups[position]
        operands = operands_of(optimizer, parameter, optimizer.param_groups[group])
        assert int(read.tensors[index, columns.TENSOR_NUMEL]) == parameter.numel()
        if parameter.numel() > 0:
            assert read.addresses(index) == [0 if tensor is None else tensor.data_ptr() for tensor in operands]
        layout = read.layouts[index]
        assert (layout is None) == is_one_block(operands)
        if layout is not None:
            assert_layout(layout, operands)
        source = read.sources[sets[index] : sets[index] + 1]
        assert read.number(source, columns.SOURCE_GROUP) == [group]
        scalars = [optimizer.state[parameter][scalar.name] for scalar in spec.scalars]
        assert source[0, :2].tolist() == [*(scalar.data_ptr() for scalar in scalars), 0, 0][:2]
        doubles = [int(scalar.dtype == torch.float64) for scalar in scalars]
        kinds = [read.number(source, columns.SOURCE_IS_DOUBLE + i)[0] for i in range(2)]
        assert kinds == [*doubles, 0, 0][:2]
        run = read.run_of(index)
        assert (run is None) == (parameter.numel() == 0)
        if run is not None:
            first_state = next((tensor for tensor in operands[2:5] if tensor is not None), parameter)
            assert DTYPE_ORDER[run.dtype] == parameter.dtype and DTYPE_ORDER[run.state_dtype] == first_state.dtype
            assert run.slots == sum(1 << slot for slot in range(3) if operands[2 + slot] is not None)
            assert (run.access == columns.STRIDED) == (layout is not None)
