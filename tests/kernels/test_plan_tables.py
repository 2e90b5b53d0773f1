"""What a plan hands to the kernels, beside what torch says of the same tensors."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch

from builders import each_optimizer
from memory_guard import STEPS, Guarded
from recorded_plans import (
    MATRIX,
    Reader,
    assert_as_torch_says,
    awkward_parameters,
    build,
    give_gradients,
    parameters_of,
    settled,
)
from records import DTYPES, dtype_name
from torchclip.backends.triton import columns


def expected_numbers(group: dict[str, Any], hyperparameters: tuple[str, ...]) -> list[float]:
    own: list[float] = [group["lr"]]
    for key in hyperparameters:
        own += group[key] if isinstance(group[key], tuple) else [group[key]]
    pipeline = [group.get(key, 0.0) for key in ("weight_decay", "decoupled_weight_decay", "maximize")]
    return [float(number) for number in (*own, *[0] * (8 - len(own)), *pipeline)]


@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_name)
@each_optimizer
def test_reads_what_torch_says(name: str, dtype: torch.dtype) -> None:
    params = awkward_parameters(dtype)
    optimizer = build(name, params)
    reader = Reader(optimizer)
    for step in (1, 4, 5, 9):
        give_gradients(params, step)
        read = settled(reader, optimizer)
        assert read.changed
        assert_as_torch_says(read, optimizer)
        expected = [expected_numbers(group, optimizer.spec.hyperparameters) for group in optimizer.param_groups]
        assert read.groups[:, :11].tolist() == expected
        assert not read.groups[:, columns.GROUP_LR :].view(torch.int64).any()


ROWS = (
    ((), (), (1, 1)),
    ((7,), (1,), (1, 7)),
    ((0,), (1,), (1, 1)),
    ((3, 0), (1, 1), (3, 1)),
    ((5, 7), (7, 1), (5, 7)),
    ((5, 7), (1, 5), (5, 1)),
    ((1, 6), (1, 2), (1, 6)),
    ((2, 3, 5, 4), (60, 1, 12, 3), (2, 60)),
    ((4, 3, 2), (3, 1, 12), (4, 3)),
)
"""Shape, strides, and how many rows there are with how many elements that follow one another."""


@pytest.mark.parametrize("shape, strides, rows", ROWS)
def test_rows(shape: Any, strides: Any, rows: tuple[int, int]) -> None:
    p = torch.nn.Parameter(Guarded.of(torch.ones(shape), strides).view)
    p.grad = torch.ones(shape)
    optimizer = build("sgd", [p])
    read = settled(Reader(optimizer, by_rows=True), optimizer)
    assert read.tensors[0, [columns.TENSOR_ROWS, columns.TENSOR_INNER]].tolist() == list(rows)


@pytest.mark.parametrize("scope", ("optimizer", "group", "tensor", "row"))
def test_sums_of_each_scope(scope: str) -> None:
    params = awkward_parameters(torch.bfloat16)
    optimizer = build("ada_grad_norm", params, scope=scope)
    give_gradients(params, STEPS)
    reader = Reader(optimizer)
    read = settled(reader, optimizer)
    places = {id(parameter): place for place, parameter in enumerate(parameters_of(optimizer))}
    matrix, vector = places[id(params[MATRIX])], places[id(params[4])]
    state = optimizer.state[params[MATRIX]]
    tensor = read.tensors[matrix]
    by_rows = scope == "row"
    assert tensor[columns.TENSOR_SUMS] == (state["sum"].data_ptr() if by_rows else 0)
    assert tensor[[columns.TENSOR_ROWS, columns.TENSOR_INNER]].tolist() == ([33, 61] if by_rows else [0, 1])
    matrix_run, vector_run = read.run_of(matrix), read.run_of(vector)
    assert matrix_run is not None and vector_run is not None
    assert matrix_run.slots == 0b01 and vector_run.slots == (0b11 if by_rows else 0b01)
    if by_rows:
        state["sum"] = state["sum"].double()
        assert read.number(settled(reader, optimizer).tensors, columns.TENSOR_SUM_IS_DOUBLE)[matrix] == 1


def test_holds_no_gradients_between_steps() -> None:
    params = [torch.nn.Parameter(torch.ones(3)) for _ in range(2)]
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer = build("adamw", params)
    reader = Reader(optimizer)
    settled(reader, optimizer)
    gradients = [weakref.ref(p.grad) for p in params]
    assert all(gradient() is not None for gradient in gradients)
    optimizer.zero_grad()
    assert [gradient() for gradient in gradients] == [None, None]


def test_a_plan_lets_go() -> None:
    p = torch.nn.Parameter(torch.ones(3))
    p.grad = torch.ones_like(p)
    optimizer = build("adamw", [p])
    reader = Reader(optimizer)
    settled(reader, optimizer)
    held = weakref.ref(p)
    del optimizer, p, reader
    gc.collect()
    assert held() is None


def test_cycles_are_collected() -> None:
    p = torch.nn.Parameter(torch.ones(3))
    p.grad = torch.ones_like(p)
    optimizer = build("adamw", [p])
    reader = Reader(optimizer)
    settled(reader, optimizer)
    optimizer.param_groups[0]["reader"] = reader
    held = weakref.ref(p)
    del optimizer, p, reader
    gc.collect()
    assert held() is None


def test_layout_of_an_expanded_gradient() -> None:
    p = torch.nn.Parameter(torch.ones(5, 9))
    p.grad = Guarded.of(torch.ones(5, 9), (0, 1)).view
    optimizer = build("sgd", [p])
    layout = settled(Reader(optimizer), optimizer).layouts[0]
    assert layout == [[5, 9], [9, 1], [0, 1], [9, 1], [0, 0], [0, 0], [0, 0]]


def test_gradients_keep_their_memory_until_the_step_ends() -> None:
    """Another thread may replace a gradient between the reading of its address and the kernel that reads it."""

    class Memory(bytearray):
        """One that can be watched."""

    param, memory = torch.nn.Parameter(torch.ones(4)), Memory(16)
    param.grad = torch.frombuffer(memory, dtype=torch.float32)
    alive = weakref.ref(memory)
    del memory
    optimizer = build("adam", [param])
    reader = Reader(optimizer)
    settled(reader, optimizer)
    seen = []

    def replace() -> None:
        param.grad = None
        gc.collect()
        seen.append(alive() is not None)

    reader.at_launch(replace)
    reader.read()
    gc.collect()
    assert seen == [True] and alive() is None
