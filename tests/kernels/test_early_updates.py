"""An update pass on CUDA begins while the pass in front of it ends, if that is of its own step: on the emulator, which
fails where a launch that may begin early ends without having waited."""

from __future__ import annotations

import pytest

from cuda_pairs import BY_NAME, LARGE_CACHE, OF_RECIPES, SMALL_CACHE, Recipe, Twin, assert_same
from emulated import Emulator


def early_launches(emulator: Emulator, twin: Twin, step: int) -> int:
    """Of one step."""
    before = emulator.early_launches()
    twin.steps([step])
    return int(emulator.early_launches() - before)


@OF_RECIPES
def test_the_first_update_behind_a_pass_is_early(recipe: Recipe, emulator: Emulator) -> None:
    """What stands in front of a step's only launches is not known: it may have written the gradients."""
    emulator.set_cache_bytes(SMALL_CACHE)
    twin = recipe.twin()
    wanted = 1 if recipe.launches > recipe.updates else 0
    assert [early_launches(emulator, twin, step) for step in (1, 2, 3)] == [wanted] * 3


@pytest.mark.parametrize("setting", ("capability 8.9", "one launch"))
def test_no_update_is_early(setting: str, emulator: Emulator) -> None:
    """Where the device does not serve it, and where the update is in the norm pass's launch."""
    emulator.set_cache_bytes(SMALL_CACHE)
    twin, other = (BY_NAME["adamw_clip"].twin() for _ in range(2))
    assert early_launches(emulator, twin, 1) == 1
    if setting == "capability 8.9":
        emulator.set_capability(8, 9)
    else:
        emulator.set_cache_bytes(LARGE_CACHE)
    assert early_launches(emulator, other, 1) == 0
    assert_same(twin.results(), other.results())
