"""The gatherers in C++ and in Python see every change alike."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import torchclip
from builders import each_optimizer
from gatherer_runs import (
    LATE,
    MATRIX,
    Read,
    assert_as_torch_says,
    awkward_parameters,
    build,
    compiled,
    complete,
    give_gradients,
    parameters_of,
    reader_of,
)
from records import DTYPES, dtype_name
from torchclip.backends.triton import gatherer


class Both:
    """An optimizer over awkward parameters, read by both gatherers."""

    def __init__(self, name: str, dtype: torch.dtype, **options: Any) -> None:
        self.name, self.options = name, options
        self.params = awkward_parameters(dtype)
        self.optimizer = build(name, self.params, **options)
        self.readers = [reader_of(each, self.optimizer) for each in (compiled, gatherer.Gatherer)]
        give_gradients(self.params, 1)
        self.read = self.agree()

    def refresh(self) -> list[int]:
        ours, theirs = (
            reader.refresh(self.optimizer.param_groups, self.optimizer.state) for reader in reversed(self.readers)
        )
        assert ours == theirs
        return ours

    def agree(self) -> Read:
        """What both say, before and after the missing state is made, and again when nothing changes."""
        complete(self.optimizer, self.compare_one_refresh())
        assert self.refresh() == []
        theirs, ours = (Read.of(reader, self.optimizer) for reader in self.readers)
        ours.assert_equal(theirs)
        for _ in range(2):
            assert self.compare_one_refresh() == []
        return ours

    def compare_one_refresh(self) -> list[int]:
        attention = self.refresh()
        theirs, ours = (Read.of(reader, self.optimizer) for reader in self.readers)
        ours.assert_equal(theirs)
        assert all(ours.descriptions[place] is None and not ours.addresses[place].any() for place in attention)
        return attention


def lose_gradients(both: Both) -> None:
    for param in both.params[::3]:
        param.grad = None


def give_late_gradient(both: Both) -> None:
    assert both.params[LATE].grad is None
    both.params[LATE].grad = torch.ones_like(both.params[LATE])


def give_new_gradients(both: Both) -> None:
    give_gradients(both.params, 5)


def swap_data(both: Both) -> None:
    param = both.params[MATRIX]
    param.data = param.data.clone()


def swap_strides(both: Both) -> None:
    param = both.params[MATRIX]
    param.data = param.data.t().contiguous().t()


def swap_tensors(both: Both) -> None:
    param = both.params[MATRIX]
    other = torch.nn.Parameter(torch.zeros(33, 61, dtype=param.dtype))
    other.grad = torch.ones_like(other)
    torch.utils.swap_tensors(param, other)


def swap_dimensions(both: Both) -> None:
    """From a matrix to a vector, for which a rule over rows keeps other sums."""
    param = both.params[MATRIX]
    for name, value in both.optimizer.state.get(param, {}).items():
        if value.numel() == param.numel():
            both.optimizer.state[param][name] = value.flatten()
    if both.name == "ada_grad_norm_row":
        dtype = torch.promote_types(param.dtype, torch.float32)
        both.optimizer.state[param]["sum"] = torch.ones(param.numel(), dtype=dtype)
    param.grad = None
    param.data = param.data.flatten()
    param.grad = torch.ones_like(param)


def load(both: Both) -> None:
    both.optimizer.load_state_dict(both.optimizer.state_dict())


def add_group(both: Both) -> None:
    new = torch.nn.Parameter(torch.ones(5, 3, dtype=both.params[0].dtype))
    new.grad = torch.ones_like(new)
    both.optimizer.add_param_group({"params": [new], "lr": 0.25})


def change_lr(both: Both) -> None:
    both.optimizer.param_groups[1]["lr"] = 0.125


def set_tensor_lr(both: Both) -> None:
    both.optimizer.param_groups[1]["lr"] = torch.tensor(0.125, dtype=torch.float64)


def drop_state(both: Both) -> None:
    both.optimizer.state.pop(both.params[MATRIX], None)


def replace_state(both: Both) -> None:
    for value in list(both.optimizer.state[both.params[MATRIX]].items()):
        both.optimizer.state[both.params[MATRIX]][value[0]] = value[1].clone()


def restride_state(both: Both) -> None:
    """In place, which the state dict does not show."""
    for value in both.optimizer.state[both.params[MATRIX]].values():
        if value.ndim == 2:
            value.data = value.data.t().contiguous().t()


def widen_state(both: Both) -> None:
    """Half-precision parameters may have float32 state."""
    param = both.params[MATRIX]
    state = both.optimizer.state.get(param, {})
    for name, value in state.items():
        if value.shape == param.shape:
            state[name] = value.to(torch.promote_types(param.dtype, torch.float32))


def widen_numbers(both: Both) -> None:
    state = both.optimizer.state.get(both.params[MATRIX], {})
    for scalar in both.optimizer.spec.scalars:
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


@pytest.mark.parametrize("dtype", DTYPES[:3], ids=dtype_name)
@each_optimizer
def test_both_agree_after_every_change(name: str, dtype: torch.dtype) -> None:
    for label, (change, is_geometry) in GEOMETRY.items():
        both = Both(name, dtype)
        if change in (replace_state, restride_state) and not both.optimizer.state[both.params[MATRIX]]:
            continue
        change(both)
        changed_by = [reader.take_changed() for reader in both.readers]
        assert changed_by == [False, False]
        attention = both.refresh()
        changes = [reader.take_changed() for reader in both.readers]
        assert changes[0] == changes[1], label
        if is_geometry is not None:
            assert changes[0] == is_geometry, label
        complete(both.optimizer, attention)
        read = both.agree()
        assert_as_torch_says(read, both.optimizer)
        same_numbers = read.numbers.shape == both.read.numbers.shape and torch.equal(read.numbers, both.read.numbers)
        assert same_numbers == (label not in ("add_group", "lr", "tensor_lr")), label
        assert (read.lrs != [None] * len(read.lrs)) == (label == "tensor_lr"), label


@each_optimizer
def test_both_agree_after_one_change_upon_another(name: str) -> None:
    both = Both(name, torch.float32)
    for change, _ in GEOMETRY.values():
        if change is give_late_gradient:
            both.params[LATE].grad = None
        change(both)
        assert_as_torch_says(both.agree(), both.optimizer)


@pytest.mark.parametrize("name", ("sgd", "adamw", "ada_grad_norm", "ada_grad_norm_row"))
def test_both_agree_on_slow_weights_and_rows(name: str) -> None:
    both = Both(name, torch.float16, extensions=(torchclip.Lookahead(k=2),))
    rows = [description[6] for description in both.read.descriptions if description is not None]
    assert min(rows) == 1 and max(rows) == 33
    matrix = next(i for i, p in enumerate(parameters_of(both.optimizer)) if p is both.params[MATRIX])
    assert both.read.addresses[matrix, 5] == both.optimizer.state[both.params[MATRIX]]["slow"].data_ptr()
    for lookahead, by_rows in ((False, True), (True, True), (False, False), (True, False)):
        for reader in both.readers:
            reader.configure(lookahead, by_rows)
        theirs, ours = (Read.of(reader, both.optimizer) for reader in both.readers)
        ours.assert_equal(theirs)
        assert ours.changed and not ours.addresses.any()  # of nothing that has not been examined
        read = both.agree()
        assert (read.addresses[matrix, 5] != 0) == lookahead
        has_rows = lookahead or by_rows or name == "ada_grad_norm_row"
        assert read.descriptions[matrix][6:8] == ((33, 61) if has_rows else (0, 1))


def test_both_agree_on_used_slots() -> None:
    both = Both("rmsprop", torch.float32)
    changes = ((0, "momentum", 0.0, 0b101), (0, "centered", False, 0b001), (1, "momentum", 0, 0b101))
    for group, key, value, used in changes:
        both.optimizer.param_groups[group][key] = value
        read = both.agree()
        assert {d[3] for d in read.descriptions if d is not None and d[0] == group} == {used}
    both = Both("sgd", torch.float32)
    both.optimizer.param_groups[0]["momentum"] = torch.tensor(0.0)
    assert {d[3] for d in both.agree().descriptions if d is not None and d[0] == 0} == {0}
    for param in both.params:
        param.grad = None
    both.agree()
    both.optimizer.param_groups[1]["momentum"] = 0
    assert both.refresh() == []
    assert [reader.take_changed() for reader in both.readers] == [True, True]
