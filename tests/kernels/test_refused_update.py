"""An update whose kernel is refused when it first runs: state and step counts are as before the step."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import torchclip
from cuda_pairs import BY_NAME, SMALL_CACHE, Recipe, assert_same
from emulated import LAUNCH, Emulator
from torchclip.backends.choice import unavailable_reason

REFUSED = 701
"""cudaErrorLaunchOutOfResources"""

SEVERAL_LAUNCHES = [
    BY_NAME[name]
    for name in ("sgd_dampening", "adamw_clip", "rmsprop_auto", "sgd_z", "mix_clip_clip", "ada_grad_norm", "extensions")
]


@pytest.mark.parametrize("begun", [False, True], ids=["first_step", "first_of_new_tables"])
@pytest.mark.parametrize("recipe", SEVERAL_LAUNCHES, ids=lambda recipe: recipe.name)
def test_the_refused_step_has_not_been(recipe: Recipe, begun: bool, emulator: Emulator) -> None:
    emulator.set_cache_bytes(SMALL_CACHE)
    twin, eager = recipe.twin(), recipe.twin()
    if begun:
        twin.steps([1])
        eager.steps([1])
        for each in (twin, eager):  # other tables: a parameter less
            each.optimizer.param_groups[0]["params"].pop()
    before = twin.numbers()
    twin.give(2)
    emulator.fail(LAUNCH, REFUSED, recipe.launches - recipe.updates)
    with pytest.raises(RuntimeError, match="failed with"):
        twin.step()
    after = twin.numbers()
    assert_same({name: after[name] for name in before}, before)
    if not begun:
        assert after.keys() == before.keys()
    twin.step()
    eager.steps([2])
    assert_same(twin.numbers(), eager.numbers())


class OutOfResources(RuntimeError):
    """As Triton's."""


@pytest.mark.skipif(unavailable_reason("triton") is not None, reason="Triton cannot run here")
@pytest.mark.skipif(torch.cuda.is_available(), reason="it does not reach the CPU's tensors then")
def test_a_kernel_that_cannot_be_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchclip.backends.triton import launcher

    def params() -> list[torch.nn.Parameter]:
        made = [torch.nn.Parameter(torch.zeros(5)), torch.nn.Parameter(torch.ones(2, 3))]
        for param in made:
            param.grad = torch.ones_like(param)
        return made

    options: dict[str, Any] = {"lr": 0.1, "clip": torchclip.AutoClip(window=4), "backend": "triton"}
    ours, theirs = (torchclip.AdamW(params(), **options) for _ in range(2))
    launch = launcher.launch

    def refuse(compiled: object, key: tuple[Any, ...], *arguments: Any) -> None:
        if key[0] == "update":
            raise OutOfResources
        launch(compiled, key, *arguments)

    monkeypatch.setattr(launcher, "launch", refuse)
    with pytest.raises(OutOfResources):
        ours.step()
    monkeypatch.undo()
    for _ in range(2):
        ours.step()
        theirs.step()
    assert float(ours.param_groups[0]["shared"]["norm_count"]) == 2
    for group, other in zip(ours.param_groups[0]["params"], theirs.param_groups[0]["params"]):
        assert torch.equal(group, other)
        assert float(ours.state[group]["step"]) == 2
