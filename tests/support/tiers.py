"""Which cases of large grids are thorough: those that reach no path of the code that the others do not.

Emulated and interpreted kernels take a thousand times as long as compiled ones, and tracing a graph does too. There a
greedy cover stays of a test's cases: as many as have each value of each parameter once, where optimizers that share
their kernels are one value. Of the conformance test, whose yardsticks take time on every backend, as many stay as reach
every rule, policy, step size and extension, and every functor in every type. Everything else stays whole. ``paths.py``
lists the kernels that thorough cases alone reach.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

import pytest

from builders import NAMESAKES, OPTIMIZERS
from records import dtype_name

INTERPRETED, EMULATED = "triton", "cuda"

CONFORMANCE = "test_step_matches_float64"

TRACED = ("test_one_graph_for_every_optimizer", "test_one_graph_for_every_modifier")
"""Tests that take seconds for a case on any backend."""

MANY = 12
"""Cases of a test on emulated kernels that all stay."""

Item = pytest.Item | Any


def reached(item: Item) -> set[Hashable]:
    """The paths of the code that a case of the conformance test reaches."""
    case, dtype = item.callspec.params["case"], item.callspec.params["dtype"]
    functor, extensions = case.rule.cls.spec.family, [type(extension).__name__ for extension in case.extras.extensions]
    found: set[Hashable] = {
        ("functor", functor, case.rule.cls.spec.clips_itself, dtype_name(dtype)),
        ("clip", case.clip.name),
        ("step size", case.pace.name),
        *(("extension", name) for name in extensions),
    }
    if item.callspec.params["backend"] != INTERPRETED:  # where the coefficients of each rule have a test of their own
        found.add(("rule", re.sub(r"^mix\d+_", "", case.rule.name)))
    if item.callspec.params["backend"] == "cpu":
        found |= {(functor, case.clip.name), *((functor, name) for name in extensions)}
    return found


def chosen_values(item: Item) -> set[Hashable]:
    """The values of a case's parameters; of an optimizer the kernels that it has in common with others."""
    values = [(name, value) for name, value in item.callspec.params.items() if name != "backend"]
    return {"any", *((name, kernels_of(value) or id(value)) for name, value in values)}


def kernels_of(value: object) -> Hashable:
    """What optimizers have in common that run the same kernels; None for what is no optimizer."""
    if isinstance(value, str):
        value = OPTIMIZERS.get(value, NAMESAKES.get(value, (None,)))[0]
    spec = getattr(getattr(value, "cls", value), "spec", None)
    return None if spec is None else (spec.family, spec.clips_itself, spec.by_scope is not None)


def beyond_cover(items: Sequence[Item], features: Callable[[Item], set[Hashable]]) -> list[Item]:
    """Those whose features others have: the cases with the most new features stay, and among equal ones those whose
    type is the rarest so far."""
    missing = {item: features(item) for item in items}
    stay: set[Item] = set()
    types: Counter[Any] = Counter()
    while any(missing.values()):
        best = max(missing, key=lambda item: (len(missing[item]), -types[item.callspec.params.get("dtype")]))
        found = missing[best]
        stay.add(best)
        types[best.callspec.params.get("dtype")] += 1
        missing = {item: left - found for item, left in missing.items()}
    return [item for item in items if item not in stay]


def thorough_of(items: Iterable[Item]) -> list[Item]:
    """The cases that ``make test`` leaves out."""
    grids: dict[tuple[str, str, str], list[Item]] = defaultdict(list)
    for item in items:
        if hasattr(item, "callspec") and item.get_closest_marker("thorough") is None:
            grids[str(item.path), item.originalname, item.callspec.params.get("backend", "")].append(item)
    left_out: list[Item] = []
    for (_, name, backend), cases in grids.items():
        if name == CONFORMANCE:
            left_out += beyond_cover(cases, reached)
        elif backend == INTERPRETED or name in TRACED or (backend == EMULATED and len(cases) > MANY):
            left_out += beyond_cover(cases, chosen_values)
    return left_out
