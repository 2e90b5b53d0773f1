"""The host's part of a step on CUDA devices, on the emulator: launches, tables, failures, several devices."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import torchclip
from cuda_pairs import (
    BY_NAME,
    LARGE_CACHE,
    OF_CACHES,
    OF_RECIPES,
    SMALL_CACHE,
    Recipe,
    assert_close,
    assert_same,
    counted,
)
from emulated import LAUNCH, ORDERS, SET_DEVICE, Emulator
from memory_guard import same_bits
from torchclip.backends.choice import unavailable_reason


@OF_CACHES
@OF_RECIPES
def test_launches_of_a_step(recipe: Recipe, cache: int, emulator: Emulator) -> None:
    emulator.set_cache_bytes(cache)
    twin = recipe.twin()
    first = counted(emulator, lambda: twin.steps([1]))
    steady = []
    for step in (2, 3, 4):
        twin.give(step)
        steady.append(counted(emulator, twin.step))
    wanted = recipe.launches if cache == SMALL_CACHE else recipe.fits
    assert steady == [wanted] * 3
    assert first > wanted  # the tables


@pytest.mark.parametrize("cache, launches", ((SMALL_CACHE, 2), (LARGE_CACHE, 1)))
def test_launches_of_three_hundred_tensors(cache: int, launches: int, emulator: Emulator) -> None:
    emulator.set_cache_bytes(cache)
    for name in ("sgd_clip", "adamw_clip"):
        recipe = BY_NAME[name]
        twin = Recipe(name, recipe.cls, recipe.options, shapes=[(3,)] * 300).twin()
        twin.steps([1, 2])
        twin.give(3)
        assert counted(emulator, twin.step) == launches


@pytest.mark.parametrize("count, uploads", [(384, 0), (385, 1), (900, 1)])
def test_gradients_that_moved(count: int, uploads: int, emulator: Emulator) -> None:
    """Addresses ride in the parameters of a launch, and those of a larger model are written to the device anew."""
    twin = Recipe("sgd", torchclip.SGD, {"lr": 0.1}, shapes=[(2,)] * count).twin()
    plain = Recipe("sgd", torchclip.SGD, {"lr": 0.1}, shapes=[(2,)] * count).twin()
    twin.steps([1, 2])
    twin.give(3)
    still = counted(emulator, twin.step)
    before = [param.grad for param in twin.params]  # kept, so that no new one has an old one's place
    twin.give(4, moves=True)
    assert counted(emulator, twin.step) == still + uploads
    twin.give(5)
    assert counted(emulator, twin.step) == still
    assert len(before) == count
    plain.steps(range(1, 6))
    assert_same(twin.results(), plain.results())


def test_learning_rates_and_groups_need_no_upload(emulator: Emulator) -> None:
    twin = BY_NAME["adamw_clip"].twin()
    twin.steps([1, 2])
    for group in twin.optimizer.param_groups:
        group["lr"], group["weight_decay"] = 0.01, 0.3
    twin.give(3)
    assert counted(emulator, twin.step) == 1


@OF_RECIPES
def test_one_and_two_launches_agree_bitwise(recipe: Recipe, emulator: Emulator) -> None:
    results = []
    for cache in (SMALL_CACHE, LARGE_CACHE):
        emulator.set_cache_bytes(cache)
        twin = recipe.twin()
        twin.steps([1, 2, 3])
        results.append(twin.results())
    assert_same(results[1], results[0])


@OF_CACHES
@OF_RECIPES
def test_results_repeat_bitwise_in_every_order(recipe: Recipe, cache: int, emulator: Emulator) -> None:
    emulator.set_cache_bytes(cache)
    results = []
    for order in (*ORDERS.values(), ORDERS["ascending"], (2, 5)):
        emulator.set_order(*order)
        twin = recipe.twin()
        twin.steps([1, 2, 3])
        results.append(twin.results())
    for other in results[1:]:
        assert_same(other, results[0])


@pytest.mark.parametrize("size", [(1, 1), (7, 2)])
@OF_RECIPES
def test_results_do_not_depend_on_the_number_of_blocks(
    recipe: Recipe, size: tuple[int, int], emulator: Emulator
) -> None:
    results = []
    for multiprocessors, blocks in ((3, 1), size):
        emulator.set_device(multiprocessors, blocks)
        twin = recipe.twin()
        twin.steps([1, 2])
        results.append(twin.results())
    assert_same(results[1], results[0])


# Failures.

CODES = {
    "launch": (719, "cudaErrorLaunchFailure", "run under compute-sanitizer"),
    "memory": (2, "cudaErrorMemoryAllocation", "free memory on the device"),
    "too_large": (720, "cudaErrorCooperativeLaunchTooLarge", ";"),
}


def failing_step(emulator: Emulator, twin: Any, code: str, successes: int) -> None:
    """A step whose launch number ``successes`` fails, with its message."""
    number, name, remedy = CODES[code]
    emulator.fail(LAUNCH, number, successes)
    with pytest.raises(RuntimeError, match=f"launch of .* failed with {name}: .*; ") as raised:
        twin.step()
    assert remedy in str(raised.value)


@pytest.mark.parametrize("code", CODES)
@OF_CACHES
@OF_RECIPES
def test_a_step_whose_first_launch_fails_has_not_been(
    recipe: Recipe, cache: int, code: str, emulator: Emulator
) -> None:
    emulator.set_cache_bytes(cache)
    twin, eager = recipe.twin(), recipe.twin()
    for steps in ([], [1, 2]):  # the very first step, and one in a steady state
        twin.steps(steps)
        eager.steps(steps)
        before = twin.numbers()
        twin.give(3)
        failing_step(emulator, twin, code, 0)
        assert_same(twin.numbers(), before)
    twin.step()
    eager.steps([3])
    assert_same(twin.numbers(), eager.numbers())


@OF_RECIPES
def test_a_step_that_fails_before_its_update_leaves_the_parameters(recipe: Recipe, emulator: Emulator) -> None:
    """Numbers of state may have moved on by then; the next step is a step as any other."""
    emulator.set_cache_bytes(SMALL_CACHE)
    for successes in range(1, recipe.launches - recipe.updates + 1):
        twin = recipe.twin()
        twin.steps([1, 2])
        before = twin.numbers()
        twin.give(3)
        failing_step(emulator, twin, "launch", successes)
        after = twin.numbers()
        elements = [name for name in before if before[name].dim() or name.startswith("parameter")]
        kept = [name for name in elements if not name.startswith("shared") and not name.startswith("sum")]
        assert_same({name: after[name] for name in kept}, {name: before[name] for name in kept})
        twin.steps([4, 5])
        for name, value in twin.numbers().items():
            assert bool(torch.isfinite(value).all()), name
            if name.startswith("parameter") and value.numel() > 100:
                assert not torch.equal(value, before[name]), name


def test_a_norm_pass_that_fails_half_way_is_begun_anew(emulator: Emulator) -> None:
    """Each dtype has a launch, and the last block of both finishes: the blocks of the first must not count twice."""
    recipe = BY_NAME["adamw_clip"]

    def mixed() -> Any:
        twin = recipe.twin()
        with torch.no_grad():
            for param in twin.params[1::2]:
                param.data = param.data.bfloat16()
        return twin

    twin, eager = mixed(), mixed()
    twin.steps([1, 2])
    twin.give(3)
    failing_step(emulator, twin, "launch", 1)
    twin.step()
    eager.steps([1, 2, 3])
    assert_same(twin.results(), eager.results())


def test_a_device_that_cannot_be_made_current(emulator: Emulator) -> None:
    emulator.set_devices(2)
    twin = BY_NAME["sgd_clip"].twin()
    emulator.place(twin.params[1], 1)
    twin.give(1)
    before = twin.numbers()
    emulator.fail(SET_DEVICE, 101, 0)
    with pytest.raises(RuntimeError, match="cudaErrorInvalidDevice"):
        twin.step()
    assert_same(twin.numbers(), before)
    twin.step()


def test_why_there_is_no_backend(emulator: Emulator) -> None:
    assert unavailable_reason("cuda") is None
    emulator.set_driver_version(12040)
    assert "12.4" in str(unavailable_reason("cuda")) and "13.0" in str(unavailable_reason("cuda"))
    with pytest.raises(RuntimeError, match=r"backend='cuda' is not available: .*driver"):
        BY_NAME["sgd"].twin()
    emulator.set_driver_version(13000)
    emulator.set_capability(7, 5)
    assert "compute capability 7.5" in str(unavailable_reason("cuda"))
    for later in ((8, 6), (9, 0), (12, 0)):  # by machine code of its generation, and by PTX
        emulator.set_capability(*later)
        assert unavailable_reason("cuda") is None
    emulator.set_devices(0)
    assert "there is no GPU" in str(unavailable_reason("cuda"))
    emulator.set_devices(1)
    assert unavailable_reason("cuda") is None


# Several devices.


@OF_RECIPES
def test_two_devices_step_as_one(recipe: Recipe, emulator: Emulator) -> None:
    emulator.set_devices(2)
    one, two = recipe.twin(), recipe.twin()
    for param in two.params[1::2]:
        emulator.place(param, 1)
    one.steps([1, 2, 3])
    here, there = emulator.launches_on(0), emulator.launches_on(1)
    two.steps([1, 2, 3])
    assert emulator.launches_on(0) > here and emulator.launches_on(1) > there
    assert emulator.current_device() == 0
    assert_close(two.results(), one.results(), tolerance=1e-5)


def test_two_devices_with_a_norm_of_each_tensor_and_one_of_all(emulator: Emulator) -> None:
    options = {"lr": 0.5, "gamma": 2.0, "momentum": 0.9, "clip": torchclip.ClipByTensorNorm(1.0)}
    recipe = Recipe("mix_clip_tensor_norm", torchclip.MixClip, options)
    emulator.set_devices(2)
    one, two = recipe.twin(), recipe.twin()
    for param in two.params[1::2]:
        emulator.place(param, 1)
    one.steps([1, 2, 3])
    two.steps([1, 2, 3])
    assert_close(two.results(), one.results(), tolerance=1e-5)


def test_two_devices_repeat_bitwise(emulator: Emulator) -> None:
    emulator.set_devices(2)
    results = []
    for _ in range(2):
        twin = BY_NAME["mix_clip_clip"].twin()
        for param in twin.params[::2]:
            emulator.place(param, 1)
        twin.steps([1, 2, 3])
        results.append(twin.results())
    assert_same(*results)


# A GradScaler's numbers.


@OF_CACHES
@OF_RECIPES
def test_found_inf_of_a_first_step_leaves_it_to_be_made(recipe: Recipe, cache: int, emulator: Emulator) -> None:
    emulator.set_cache_bytes(cache)
    twin, eager = recipe.twin(), recipe.twin()
    before = [param.detach().clone() for param in twin.params]
    for each in (twin, eager):
        each.optimizer.grad_scale, each.optimizer.found_inf = torch.full((), 4.0), torch.zeros(1)
    twin.optimizer.found_inf.fill_(2.0)  # a sum over devices
    twin.steps([1])
    assert all(torch.equal(param, value) for param, value in zip(twin.params, before))
    twin.optimizer.found_inf.zero_()
    twin.steps([2, 3])
    eager.steps([2, 3])
    assert_same(twin.numbers(), eager.numbers())


def test_first_steps_at_odd_places(emulator: Emulator) -> None:
    """The flags of states that are new begin anywhere among those of all parameters."""
    options = {"lr": 0.1, "momentum": 0.9, "dampening": 0.5}
    runs = []
    for backend in ("cuda", "reference"):
        params = [torch.nn.Parameter(torch.ones(5)) for _ in range(6)]
        optimizer = torchclip.SGD(params, **options, backend=backend)
        for positions in ((1, 2), (1, 2, 3), (0, 1, 2, 3, 4, 5), (0, 1, 2, 3, 4, 5)):
            for position, param in enumerate(params):
                param.grad = torch.full((5,), 1.0 + position) if position in positions else None
            optimizer.step()
        runs.append([param.detach() for param in params])
    torch.testing.assert_close(runs[0], runs[1], rtol=1e-6, atol=0)


@pytest.mark.parametrize("gradient_reads", (1, 2), ids=("update", "direction and update"))
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16, torch.float64))
@pytest.mark.parametrize("shift", (1, 2, 3))
def test_gradients_at_another_boundary(shift: int, dtype: torch.dtype, gradient_reads: int, emulator: Emulator) -> None:
    """Those of shards are views of one buffer: what else there is is read 16 bytes at a time all the same."""
    results, wide_reads = [], []
    for offset in (0, shift):
        param = torch.nn.Parameter(torch.linspace(-1, 1, 4096, dtype=dtype))
        cls = torchclip.AdamW if gradient_reads == 1 else torchclip.NormalizedSGD
        options: dict[str, Any] = {} if gradient_reads == 1 else {"momentum": 0.9}
        optimizer = cls([param], lr=0.1, backend="cuda", **options)
        for step in range(3):
            param.grad = torch.empty(4096 + offset, dtype=dtype)[offset:].copy_(param.detach().cos() + step)
            before = emulator.wide_reads()
            optimizer.step()
        wide_reads.append(emulator.wide_reads() - before)
        results.append([param.detach(), *optimizer.state[param].values()])
    assert all(same_bits(a, b) for a, b in zip(*results))
    is_shared = offset * dtype.itemsize % 16 == 0
    assert wide_reads[0] - wide_reads[1] == (0 if is_shared else gradient_reads * param.nbytes // 16)
