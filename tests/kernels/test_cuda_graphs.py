"""A captured step, replayed: what changes between replays is read on the device, and every replay is a step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

import torchclip
from cuda_pairs import BY_NAME, OF_CACHES, OF_RECIPES, SMALL_CACHE, Recipe, Twin, assert_same, counted
from emulated import Emulator


def ready_twins(recipe: Recipe, prepare: Callable[[Twin], object] | None = None) -> tuple[Twin, Twin]:
    """One to capture and one to step beside it, both prepared and two steps old; the first has its next gradients."""
    twin, eager = recipe.twin(), recipe.twin()
    for each in (twin, eager):
        if prepare is not None:
            prepare(each)
        each.steps([1, 2])
    twin.give(3)
    return twin, eager


def captured(emulator: Emulator, twin: Twin) -> int:
    """Records a step and takes none; the number of nodes."""
    before = twin.numbers()
    emulator.begin_capture()
    try:
        launches = counted(emulator, twin.step)
    finally:
        nodes = emulator.end_capture()
    assert launches == 0
    assert_same(twin.numbers(), before)
    return nodes


def replays_like(emulator: Emulator, twin: Twin, eager: Twin, change: Callable[[Twin, int], object]) -> None:
    """Replays a step of ``twin`` beside steps of ``eager``, both of which ``change`` brings up to date each time."""
    for step in (3, 4, 5, 6):
        for each in (twin, eager):
            each.give(step)
            change(each, step)
        assert emulator.replay() == 0
        eager.step()
        assert_same(twin.results(), eager.results())


def nothing(twin: Twin, step: int) -> None:
    """No change but that of gradients and loss."""


@OF_CACHES
@OF_RECIPES
def test_every_replay_is_a_step(recipe: Recipe, cache: int, emulator: Emulator) -> None:
    emulator.set_cache_bytes(cache)
    twin, eager = ready_twins(recipe)
    assert captured(emulator, twin) == (recipe.launches if cache == SMALL_CACHE else recipe.fits)
    replays_like(emulator, twin, eager, nothing)


@OF_CACHES
@OF_RECIPES
def test_learning_rate_on_the_device(recipe: Recipe, cache: int, emulator: Emulator) -> None:
    emulator.set_cache_bytes(cache)

    def take_tensors(twin: Twin) -> None:
        for group in twin.optimizer.param_groups:
            group["lr"] = torch.tensor(float(group["lr"]))

    def schedule(twin: Twin, step: int) -> None:
        for group in twin.optimizer.param_groups:
            group["lr"].mul_(0.5)

    twin, eager = ready_twins(recipe, take_tensors)
    captured(emulator, twin)
    replays_like(emulator, twin, eager, schedule)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
@OF_RECIPES
def test_learning_rate_as_tensor_is_the_number(recipe: Recipe, dtype: torch.dtype, emulator: Emulator) -> None:
    plain, on_device = recipe.twin(), recipe.twin()
    for group in on_device.optimizer.param_groups:
        group["lr"] = torch.tensor(group["lr"], dtype=torch.float64).to(dtype)
    for each, other in zip(plain.optimizer.param_groups, on_device.optimizer.param_groups):
        each["lr"] = float(other["lr"])
    for each in (plain, on_device):
        each.steps([1, 2, 3])
    assert_same(on_device.results(), plain.results())


@OF_CACHES
@OF_RECIPES
def test_grad_scale_and_found_inf(recipe: Recipe, cache: int, emulator: Emulator) -> None:
    emulator.set_cache_bytes(cache)

    def scaler(twin: Twin, step: int) -> None:
        twin.optimizer.grad_scale.fill_(2.0 ** (step % 3))
        twin.optimizer.found_inf.fill_(1.0 if step == 4 else 0.0)

    def take_scaler(twin: Twin) -> None:
        twin.optimizer.grad_scale, twin.optimizer.found_inf = torch.ones(()), torch.zeros(1)

    twin, eager = ready_twins(recipe, take_scaler)
    captured(emulator, twin)
    replays_like(emulator, twin, eager, scaler)


@OF_CACHES
def test_a_norm_that_is_not_finite_is_skipped_in_a_replay(cache: int, emulator: Emulator) -> None:
    emulator.set_cache_bytes(cache)
    policy = torchclip.ClipByGlobalNorm(5.0, nonfinite="skip")
    recipe = replace(BY_NAME["adamw_clip"], options={"lr": 0.1, "clip": policy})
    twin, eager = ready_twins(recipe)
    captured(emulator, twin)
    before = twin.numbers()
    for each in (twin, eager):
        each.params[0].grad[5] = torch.nan
    assert emulator.replay() == 0
    assert_same(twin.numbers(), before)
    eager.step()
    replays_like(emulator, twin, eager, nothing)


def test_two_steps_in_one_graph(emulator: Emulator) -> None:
    recipe = BY_NAME["extensions"]
    twin, eager = ready_twins(recipe)
    emulator.begin_capture()
    twin.step()
    twin.step()
    assert emulator.end_capture() == 2 * recipe.fits
    for step in (3, 4):
        for each in (twin, eager):
            each.give(step)
        assert emulator.replay() == 0
        eager.step()
        eager.step()
        assert_same(twin.results(), eager.results())


def test_eager_steps_go_on_after_a_capture(emulator: Emulator) -> None:
    recipe = BY_NAME["adamw_clip"]
    twin, eager = ready_twins(recipe)
    captured(emulator, twin)
    for each in (twin, eager):
        each.steps([4, 5])
    twin.give(6)
    assert emulator.replay() == 0
    eager.steps([6])
    assert_same(twin.results(), eager.results())


MANY = replace(BY_NAME["sgd_clip"], name="many", shapes=[(3,)] * 400)
"""More gradients than ride in the parameters of a launch: their addresses lie in a table."""


def test_eager_steps_with_other_gradients_after_a_capture(emulator: Emulator) -> None:
    """A graph writes the addresses that it was captured with, whatever a step in between has written."""
    twin, eager = ready_twins(MANY)
    captured(emulator, twin)
    static = [param.grad for param in twin.params]
    for each in (twin, eager):  # before the first replay, and with gradients elsewhere
        each.give(3, moves=True)
        each.step()
    away = [param.grad for param in twin.params]
    for step in (4, 5):
        for param, gradients in zip(twin.params, static):
            param.grad = gradients
        twin.give(step)
        assert emulator.replay() == 0
        eager.steps([step])
        assert_same(twin.results(), eager.results())
        for param, gradients in zip(twin.params, away):  # where the eager step before had them
            param.grad = gradients
        for each in (twin, eager):
            each.steps([step + 10])
        assert_same(twin.results(), eager.results())


def test_another_policy_after_a_capture(emulator: Emulator) -> None:
    """A graph steps as it was captured, in memory that stays its own."""
    recipe = BY_NAME["adamw_clip"]
    twin, eager = ready_twins(recipe)
    captured(emulator, twin)
    for step in (4, 6):
        for each in (twin, eager):
            each.optimizer.clip = None
            each.give(step)
            each.step()
        twin.give(step + 1)
        assert emulator.replay() == 0
        eager.optimizer.clip = recipe.options["clip"]
        eager.steps([step + 1])
        assert_same(twin.numbers(), eager.numbers())


# What a capture refuses.


@OF_RECIPES
def test_a_first_step_cannot_be_captured(recipe: Recipe, emulator: Emulator) -> None:
    twin, eager = recipe.twin(), recipe.twin()
    twin.give(1)
    before = twin.numbers()
    emulator.begin_capture()
    with pytest.raises(RuntimeError, match="take one step .* before the capture"):
        twin.step()
    emulator.end_capture()
    assert_same(twin.numbers(), before)
    twin.steps([1, 2])
    eager.steps([1, 2])
    assert_same(twin.results(), eager.results())


def test_a_policy_that_raises_cannot_be_captured(emulator: Emulator) -> None:
    policy = torchclip.ClipByGlobalNorm(5.0, nonfinite="error")
    twin = replace(BY_NAME["adamw_clip"], options={"lr": 0.1, "clip": policy}).twin()
    twin.steps([1, 2])
    twin.give(3)
    before = twin.numbers()
    emulator.begin_capture()
    with pytest.raises(RuntimeError, match='nonfinite="skip" or "propagate"'):
        twin.step()
    emulator.end_capture()
    assert_same(twin.numbers(), before)
    twin.step()
