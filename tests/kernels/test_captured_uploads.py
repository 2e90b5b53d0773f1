"""Tables that a capture changed, or that a graph reads: what a graph has recorded is not on the device before a replay,
and what it reads stays as it was captured."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from cuda_pairs import BY_NAME, OF_CACHES, OF_RECIPES, Recipe, Twin, assert_same
from emulated import Emulator


def ready(recipe: Recipe) -> tuple[Twin, Twin]:
    """One to capture and one to step beside it, both two steps old; the first has its next gradients."""
    twin, eager = recipe.twin(), recipe.twin()
    for each in (twin, eager):
        each.steps([1, 2])
    twin.give(3)
    return twin, eager


def capture(emulator: Emulator, twin: Twin) -> None:
    emulator.begin_capture()
    try:
        twin.step()
    finally:
        assert emulator.end_capture() > 0


def move_parameters(twin: Twin) -> list[Tensor]:
    """Elements of other addresses and the same values; the old ones, which no step may write any more."""
    old = [param.data for param in twin.params]
    for param in twin.params:
        param.data = param.data.clone()
    return old


def move_state(twin: Twin) -> list[Tensor]:
    old = []
    for param in twin.params:
        for value in twin.optimizer.state.get(param, {}).values():
            old.append(value.data)
            value.data = value.data.clone()
    return old


MOVES: dict[str, Callable[[Twin], list[Tensor]]] = {"parameters": move_parameters, "state": move_state}


@pytest.mark.parametrize("move", MOVES.values(), ids=MOVES)
@OF_CACHES
@OF_RECIPES
def test_an_eager_step_after_a_capture_that_found_tensors_moved(
    recipe: Recipe, cache: int, move: Callable[[Twin], list[Tensor]], emulator: Emulator
) -> None:
    emulator.set_cache_bytes(cache)
    twin, eager = ready(recipe)
    old = move(twin)
    before = [value.clone() for value in old]
    capture(emulator, twin)
    for step in (3, 4):
        for each in (twin, eager):
            each.steps([step])
        assert_same(twin.results(), eager.results())
    twin.give(5)
    assert emulator.replay() == 0
    eager.steps([5])
    assert_same(twin.results(), eager.results())
    assert all(torch.equal(value, values) for value, values in zip(old, before))


@pytest.mark.parametrize("move", MOVES.values(), ids=MOVES)
@OF_CACHES
@OF_RECIPES
def test_tensors_that_move_after_a_capture(
    recipe: Recipe, cache: int, move: Callable[[Twin], list[Tensor]], emulator: Emulator
) -> None:
    """Eager steps follow them; a replay works on what it was captured with."""
    emulator.set_cache_bytes(cache)
    twin, eager = ready(recipe)
    capture(emulator, twin)
    old = move(twin)
    before = [value.clone() for value in old]
    for each in (twin, eager):
        each.steps([3])
    assert_same(twin.results(), eager.results())
    assert all(torch.equal(value, values) for value, values in zip(old, before))
    moved = {name: value for name, value in twin.numbers().items() if name.startswith("parameter")}
    twin.give(4)
    assert emulator.replay() == 0
    if move is move_parameters:
        assert_same({name: twin.numbers()[name] for name in moved}, moved)
        assert any(not torch.equal(value, values) for value, values in zip(old, before))


def test_a_second_capture_of_moved_tensors_is_refused(emulator: Emulator) -> None:
    """It would write the tables that the first graph reads."""
    twin, eager = ready(BY_NAME["adamw_clip"])
    capture(emulator, twin)
    move_parameters(twin)
    emulator.begin_capture()
    with pytest.raises(RuntimeError, match="take one step .* before the capture"):
        twin.step()
    emulator.end_capture()
    for each in (twin, eager):
        each.steps([3])
    assert_same(twin.results(), eager.results())
    twin.give(4)
    capture(emulator, twin)
    assert emulator.replay() == 0
    eager.steps([4])
    assert_same(twin.results(), eager.results())
