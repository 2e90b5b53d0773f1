"""What a plan that has stepped an optimizer before hands to the kernels after every kind of change."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import torchclip
from builders import OPTIMIZERS, each_optimizer
from recorded_plans import (
    LATE,
    MATRIX,
    Read,
    Reader,
    assert_as_torch_says,
    awkward_parameters,
    build,
    complete,
    give_gradients,
    parameters_of,
)
from records import DTYPES, dtype_name
from torchclip.backends.triton import columns


class Session:
    """An optimizer over awkward parameters, and a plan that has stepped them from the beginning."""

    def __init__(self, name: str, dtype: torch.dtype, **options: Any) -> None:
        self.name, self.options = name, options
        self.params = awkward_parameters(dtype)
        self.optimizer = build(name, self.params, **options)
        self.reader = Reader(self.optimizer)
        give_gradients(self.params, 1)
        self.read = self.agree()

    def refresh(self) -> list[int]:
        return self.reader.refresh()

    def agree(self) -> Read:
        """What it hands over once all state is there: all that a plan does that comes to them now, and again."""
        complete(self.optimizer, self.refresh())
        assert self.refresh() == []
        read = self.reader.read()
        other = Reader(self.optimizer)
        assert other.refresh() == []
        read.assert_equal(other.read())
        for _ in range(2):
            assert self.refresh() == []
            again = self.reader.read()
            assert not again.changed
            again.assert_equal(read)
        return read


def lose_gradients(session: Session) -> None:
    for param in session.params[::3]:
        param.grad = None


def give_late_gradient(session: Session) -> None:
    assert session.params[LATE].grad is None
    session.params[LATE].grad = torch.ones_like(session.params[LATE])


def give_new_gradients(session: Session) -> None:
    give_gradients(session.params, 5)


def swap_data(session: Session) -> None:
    param = session.params[MATRIX]
    param.data = param.data.clone()


def swap_strides(session: Session) -> None:
    param = session.params[MATRIX]
    param.data = param.data.t().contiguous().t()


def swap_tensors(session: Session) -> None:
    param = session.params[MATRIX]
    other = torch.nn.Parameter(torch.zeros(33, 61, dtype=param.dtype))
    other.grad = torch.ones_like(other)
    torch.utils.swap_tensors(param, other)


def swap_dimensions(session: Session) -> None:
    """From a matrix to a vector, for which a rule over rows keeps other sums."""
    param = session.params[MATRIX]
    for name, value in session.optimizer.state.get(param, {}).items():
        if value.numel() == param.numel():
            session.optimizer.state[param][name] = value.flatten()
    if session.name == "ada_grad_norm_row":
        dtype = torch.promote_types(param.dtype, torch.float32)
        session.optimizer.state[param]["sum"] = torch.ones(param.numel(), dtype=dtype)
    param.grad = None
    param.data = param.data.flatten()
    param.grad = torch.ones_like(param)


def load(session: Session) -> None:
    session.optimizer.load_state_dict(session.optimizer.state_dict())


def add_group(session: Session) -> None:
    new = torch.nn.Parameter(torch.ones(5, 3, dtype=session.params[0].dtype))
    new.grad = torch.ones_like(new)
    session.optimizer.add_param_group({"params": [new], "lr": 0.25})


def change_lr(session: Session) -> None:
    session.optimizer.param_groups[1]["lr"] = 0.125


def set_tensor_lr(session: Session) -> None:
    session.optimizer.param_groups[1]["lr"] = torch.tensor(0.125, dtype=torch.float64)


def drop_state(session: Session) -> None:
    session.optimizer.state.pop(session.params[MATRIX], None)


def replace_state(session: Session) -> None:
    for value in list(session.optimizer.state[session.params[MATRIX]].items()):
        session.optimizer.state[session.params[MATRIX]][value[0]] = value[1].clone()


def restride_state(session: Session) -> None:
    """In place, which the state dict does not show."""
    for value in session.optimizer.state[session.params[MATRIX]].values():
        if value.ndim == 2:
            value.data = value.data.t().contiguous().t()


def widen_state(session: Session) -> None:
    """Half-precision parameters may have float32 state."""
    param = session.params[MATRIX]
    state = session.optimizer.state.get(param, {})
    for name, value in state.items():
        if value.shape == param.shape:
            state[name] = value.to(torch.promote_types(param.dtype, torch.float32))


def widen_numbers(session: Session) -> None:
    state = session.optimizer.state.get(session.params[MATRIX], {})
    for scalar in session.optimizer.spec.scalars:
        state[scalar.name] = state[scalar.name].double()


GEOMETRY = {
    "none": (lose_gradients, True),
    "late": (give_late_gradient, True),
    "new_gradients": (give_new_gradients, True),
    "data": (swap_data, False),
    "strides": (swap_strides, True),
    "tensors": (swap_tensors, None),  # of other strides than the change before has left, in some orders
    "dimensions": (swap_dimensions, True),
    "load": (load, None),  # without state it changes nothing
    "add_group": (add_group, True),
    "lr": (change_lr, False),
    "tensor_lr": (set_tensor_lr, False),
    "drop_state": (drop_state, None),
    "replace_state": (replace_state, None),
    "restride_state": (restride_state, None),
    "widen_state": (widen_state, None),
    "widen_numbers": (widen_numbers, None),
}
"""Changes, and whether they change which parameters step or how one is walked; None where it depends on the rule."""


# A type changes the size of an element and the type of numbers of state; one rule shows each of the three.
@pytest.mark.parametrize(
    "name, dtype",
    [
        pytest.param(name, dtype, id=f"{name}-{dtype_name(dtype)}")
        for name in OPTIMIZERS
        for dtype in (DTYPES[:3] if name == "adamw" else DTYPES[:1])
    ],
)
def test_every_change_is_seen(name: str, dtype: torch.dtype) -> None:
    for label, (change, is_geometry) in GEOMETRY.items():
        session = Session(name, dtype)
        if change in (replace_state, restride_state) and not session.optimizer.state[session.params[MATRIX]]:
            continue
        change(session)
        read = session.agree()
        assert read.changed or is_geometry is not True, label
        assert not (read.changed and is_geometry is False), label
        assert_as_torch_says(read, session.optimizer)
        same = read.groups.shape == session.read.groups.shape and torch.equal(read.groups, session.read.groups)
        assert same == (label not in ("add_group", "lr", "tensor_lr")), label
        has_tensor = bool(read.groups[:, columns.GROUP_LR].view(torch.int64).any())
        assert has_tensor == (label == "tensor_lr"), label


@each_optimizer
def test_one_change_upon_another_is_seen(name: str) -> None:
    session = Session(name, torch.float32)
    for change, _ in GEOMETRY.values():
        if change is give_late_gradient:
            session.params[LATE].grad = None
        change(session)
        assert_as_torch_says(session.agree(), session.optimizer)


@pytest.mark.parametrize("name", ("sgd", "adamw", "ada_grad_norm", "ada_grad_norm_row"))
def test_slow_weights_and_rows(name: str) -> None:
    session = Session(name, torch.float16, extensions=(torchclip.Lookahead(k=2),))
    matrix = next(i for i, p in enumerate(parameters_of(session.optimizer)) if p is session.params[MATRIX])
    index = session.read.positions.index(matrix)
    slow = session.optimizer.state[session.params[MATRIX]]["slow"].data_ptr()
    assert session.read.addresses(index)[5] == slow
    for lookahead, by_rows in ((False, True), (True, True), (False, False), (True, False)):
        session.reader.configure(lookahead, by_rows)
        assert session.refresh() == []
        read = session.reader.read()
        assert read.changed
        assert read.addresses(index)[5] == (slow if lookahead else 0)
        rows = read.tensors[index, [columns.TENSOR_ROWS, columns.TENSOR_INNER]].tolist()
        assert rows == ([33, 61] if by_rows or name == "ada_grad_norm_row" else [0, 1])


def test_used_slots() -> None:
    session = Session("rmsprop", torch.float32)

    def used(read: Read, group: int) -> set[int]:
        parameters = session.optimizer.param_groups[group]["params"]
        ours = [
            i for i, p in enumerate(read.positions) if any(parameters_of(session.optimizer)[p] is q for q in parameters)
        ]
        return {run.slots for run in map(read.run_of, ours) if run is not None}

    changes = ((0, "momentum", 0.0, 0b101), (0, "centered", False, 0b001), (1, "momentum", 0, 0b101))
    for group, key, value, slots in changes:
        session.optimizer.param_groups[group][key] = value
        assert used(session.agree(), group) == {slots}
    session = Session("sgd", torch.float32)
    session.optimizer.param_groups[0]["momentum"] = torch.tensor(0.0)
    assert used(session.agree(), 0) == {0}
