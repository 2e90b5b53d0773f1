"""Which cases of large grids are thorough: those that reach no path of the code that the others do not.

Emulated and interpreted kernels take a thousand times as long as compiled ones, and tracing a graph does too. There a
greedy cover stays of a test's cases: as many as have each value of each parameter once, where optimizers that share
their kernels are one value, and recipes with as many launches and policies of one kind. Interpreted and traced, where
each kernel and rule has its own tests, optimizers whose steps have as many passes are one value, and of interpreted
tests of what stands before the kernels the first few cases stay. Of the conformance test, whose yardsticks take time on
every backend, as many stay as reach every rule, policy, step size and extension, and each functor in every type, on the
backends the same ones if possible, so that they share the yardsticks. Of what stands around a step within a graph no
case of the reference path stays, which is traced whole where others are one operator. Everything else stays whole.
``paths.py`` lists the kernels that thorough cases alone reach.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from builders import NAMESAKES, OPTIMIZERS
from cuda_pairs import Recipe
from records import dtype_name

INTERPRETED, EMULATED = "triton", "cuda"

CONFORMANCE = "test_step_matches_float64"

TRACED = ("test_one_graph_for_every_optimizer", "test_one_graph_for_every_modifier")
"""Tests that take seconds for a case on any backend."""

AROUND_A_TRACED_STEP = (
    "test_a_schedule_compiles_nothing_anew",
    "test_a_training_step_breaks_where_torchs_does",
    "test_after_loading_and_another_group",
    "test_complex_parameters_in_a_graph",
    "test_copies_step_for_themselves",
    "test_of_one_compiled_step_too",
    "test_parameter_without_a_gradient_in_the_graph",
    "test_within_a_compiled_step",
)
"""Tests of what is the same for every backend."""

MANY = 12
"""Cases of a test on emulated kernels that all stay."""

FEW = 2
"""Interpreted cases of a test of what stands before the kernels: they are the same for every backend until there."""

BEFORE_KERNELS = ("unit", "checkpoints", "contract")
"""The folders of such tests."""

Item = pytest.Item | Any


def reached(item: Item) -> set[Hashable]:
    """The paths of the code that a case of the conformance test reaches."""
    case, dtype = item.callspec.params["case"], item.callspec.params["dtype"]
    functor, extensions = case.rule.cls.spec.family, [type(extension).__name__ for extension in case.extras.extensions]
    backend = item.callspec.params["backend"]
    kernels, kind = (functor, case.rule.cls.spec.clips_itself), dtype_name(dtype)
    found: set[Hashable] = {
        # Interpreted, a type is a matter of how elements are read and written, whichever the functor.
        *([("functor", kernels), ("type", kind)] if backend == INTERPRETED else [("functor", kernels, kind)]),
        ("clip", case.clip.name),
        ("step size", case.pace.name),
        *(("extension", name) for name in extensions),
    }
    if backend != INTERPRETED:  # where the coefficients of each rule have a test of their own
        found.add(("rule", re.sub(r"^mix\d+_", "", case.rule.name)))
    if backend == "cpu":
        found |= {(functor, case.clip.name), *((functor, name) for name in extensions)}
    return found


def chosen_values(item: Item) -> set[Hashable]:
    """The values of a case's parameters; of an optimizer the kernels that it has in common with others."""
    values = [(name, value) for name, value in item.callspec.params.items() if name != "backend"]
    apart = item.callspec.params.get("backend") == INTERPRETED or item.originalname in TRACED
    found: set[Hashable] = {"any", *((name, kernels_of(value, apart) or id(value)) for name, value in values)}
    for name, value in values:
        if isinstance(value, Recipe):
            found |= {(name, value.launches, value.fits, value.updates), (name, "extensions" in value.options)}
            found.add((name, type(value.options.get("clip"))))
    return found


def kernels_of(value: object, apart: bool) -> Hashable:
    """What optimizers have in common that run the same kernels, or, where these are tested apart, as many passes; None
    for what is no optimizer."""
    if isinstance(value, str):
        value = OPTIMIZERS.get(value, NAMESAKES.get(value, (None,)))[0]
    spec = getattr(getattr(value, "cls", value), "spec", None)
    return None if spec is None else ("" if apart else spec.family, spec.clips_itself, spec.by_scope is not None)


def cover(
    items: Sequence[Item],
    features: Callable[[Item], set[Hashable]],
    among: Collection[Hashable] | None = None,
) -> list[Item]:
    """As many cases as have every feature: those with the most new ones, and among equal ones those whose type is the
    rarest so far. ``among``: what the case of the conformance test is taken from; others only for what these lack."""
    missing = {item: features(item) for item in items}
    stay: list[Item] = []
    types: Counter[Any] = Counter()
    for candidates in ([item for item in items if among is None or case_of(item) in among], items):
        while True:
            best = max(
                candidates,
                key=lambda item: (len(missing[item]), -types[item.callspec.params.get("dtype")]),
                default=None,
            )
            if best is None or not missing[best]:
                break
            found = missing[best]
            stay.append(best)
            types[best.callspec.params.get("dtype")] += 1
            missing = {item: left - found for item, left in missing.items()}
    return stay


def case_of(item: Item) -> Hashable:
    """What the yardsticks of the conformance test are made of."""
    return item.callspec.params["case"], item.callspec.params["dtype"]


def thorough_of(items: Iterable[Item]) -> list[Item]:
    """The cases that ``make test`` leaves out."""
    grids: dict[tuple[str, str, str], list[Item]] = defaultdict(list)
    for item in items:
        if hasattr(item, "callspec") and item.get_closest_marker("thorough") is None:
            own = EMULATED if "emulator" in item.fixturenames else ""
            grids[str(item.path), item.originalname, item.callspec.params.get("backend", own)].append(item)
    left_out: list[Item] = []
    yardsticks: set[Hashable] = set()
    for (path, name, backend), cases in sorted(grids.items(), key=lambda grid: grid[0][2] != "cpu"):
        if name == CONFORMANCE:
            stay = cover(cases, reached, among=yardsticks or None)
            yardsticks |= {case_of(item) for item in stay}
        elif backend == "reference" and name in AROUND_A_TRACED_STEP:
            stay = []
        elif backend == INTERPRETED or name in TRACED or (backend == EMULATED and len(cases) > MANY):
            stay = cover(cases, chosen_values)
            if backend == INTERPRETED and Path(path).parent.name in BEFORE_KERNELS:
                stay = stay[:FEW]
        else:
            continue
        kept = set(stay)
        left_out += [item for item in cases if item not in kept]
    return left_out
