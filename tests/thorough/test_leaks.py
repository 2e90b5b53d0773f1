"""Thousands of steps and of new optimizers leave no memory and no objects behind."""

from __future__ import annotations

import copy
import gc
import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from builders import build, leaves
from torchclip import AutoClip, GradientDropout, Lookahead

STATUS = Path("/proc/self/statm")
PAGE = 4096

pytestmark = [
    pytest.mark.thorough,
    pytest.mark.skipif(not STATUS.exists(), reason="memory is read from /proc/self/statm"),
]

MODIFIERS = {"clip": AutoClip(window=16), "extensions": (GradientDropout(0.1), Lookahead(k=2)), "seed": 1}
ROUNDS = 2_000


def counts() -> tuple[int, int]:
    """Bytes of memory in use, and objects that the garbage collector follows."""
    gc.collect()
    return int(STATUS.read_text().split()[1]) * PAGE, len(gc.get_objects())


def steps(backend: str) -> Callable[[int], None]:
    """With gradients that move, come and go."""
    params = leaves()
    optimizer = build("adamw", params, **MODIFIERS, backend=backend)

    def once(number: int) -> None:
        for position, p in enumerate(params):
            p.grad = None if (number + position) % 3 == 0 else torch.ones_like(p)
        optimizer.step()
        optimizer.metrics()

    return once


def rebuilds(backend: str) -> Callable[[int], None]:
    """Another optimizer over the same parameters, by the constructor, a checkpoint and a copy in turn."""
    params = leaves()
    held = [build("adamw", params, **MODIFIERS, backend=backend)]

    def once(number: int) -> None:
        old = held.pop()
        old.step()
        if number % 3 == 0:
            old.load_state_dict(old.state_dict())
        held.append(build("adamw", params, **MODIFIERS, backend=backend) if number % 3 == 1 else old)
        if number % 3 == 2:
            copy.deepcopy(old).step()

    return once


def refusals(backend: str) -> Callable[[int], None]:
    """Steps and loads that end in an error."""
    params = leaves()
    optimizer = build("adamw", params, **MODIFIERS, backend=backend)
    optimizer.step()

    def once(number: int) -> None:
        with pytest.raises((TypeError, ValueError)):
            optimizer.param_groups[0]["lr"] = -1.0
            optimizer.step()
        optimizer.param_groups[0]["lr"] = 0.1
        saved = optimizer.state_dict()
        saved["state"] = {**saved["state"], 0: {"exp_avg": torch.zeros(3)}}
        with pytest.raises((TypeError, ValueError, RuntimeError)):
            optimizer.load_state_dict(saved)
        optimizer.step()

    return once


LIVES = {"steps": steps, "rebuilds": rebuilds, "refusals": refusals}


@pytest.mark.parametrize("life", LIVES.values(), ids=LIVES)
def test_nothing_is_left_behind(life: Callable[[str], Callable[[int], None]], backend: str) -> None:
    """Once caches are full: of three stretches one takes neither memory nor objects, whatever an allocator does."""
    once = life(backend)
    found = []
    for _ in range(5):
        for number in range(ROUNDS):
            once(number)
        found.append(counts())
    growth = [(later[0] - earlier[0], later[1] - earlier[1]) for earlier, later in itertools.pairwise(found[1:])]
    assert min(memory for memory, _ in growth) < 32 * ROUNDS, growth
    assert min(objects for _, objects in growth) < ROUNDS // 20, growth
