"""A model that moves to another device of the same kind: the tables are made for the one it lies on."""

from __future__ import annotations

from cuda_pairs import OF_RECIPES, Recipe, assert_same, counted
from emulated import Emulator


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
