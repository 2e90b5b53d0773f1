"""A model that moves to another device of the same kind: the tables are made for the one it lies on."""

from __future__ import annotations

import torch

import torchclip
from cuda_pairs import OF_RECIPES, Recipe, assert_same, counted
from emulated import Emulator, load


@OF_RECIPES
def test_a_step_runs_where_the_parameters_are(recipe: Recipe, emulator: Emulator) -> None:
    emulator.set_devices(2)
    twin, other = recipe.twin(), recipe.twin()
    for each in (twin, other):
        each.steps([1, 2])
    moved = [param.data.clone() for param in twin.params]
    for param, value in zip(twin.params, moved):
        emulator.place(value, 1)
        param.data = value
    twin.give(3)
    launches = {device: counted(emulator, twin.step, device) for device in (1, 0)}
    assert launches[1] > 0 and launches[0] == 0
    other.steps([3, 3])
    assert_same(twin.numbers(), other.numbers())


def test_a_gatherer_tells_devices_apart(emulator: Emulator) -> None:
    """The plan of the triton backend makes its tables anew when this one says that something changed."""
    emulator.set_devices(2)
    param = torch.nn.Parameter(torch.ones(4, 3))
    param.grad = torch.ones(4, 3)
    optimizer = torchclip.SGD([param], lr=0.1)
    reader = load().Gatherer("sgd", optimizer._keys.described, ["momentum_buffer"], [], 0, "cpu")

    def changed() -> bool:
        assert reader.refresh(optimizer.param_groups, {}) == []
        return reader.take_changed()

    assert changed()
    assert not changed()
    emulator.place(param.data, 1)
    assert changed()
    emulator.place(param.grad, 1)
    assert changed()
    assert not changed()
