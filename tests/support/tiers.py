"""Which cases of large grids are thorough: those that reach no path of the code that a case before them does not.

On the CPU and on the reference path a case takes a millisecond, and every one of them stays. Emulated and interpreted
kernels take a thousand times as long, and tracing a graph too: there one optimizer stands for those that share its
kernels, and of the conformance test as many cases as reach every rule, policy, step size and extension, and every
functor in every type. ``paths.py`` lists the kernels that are left out; there must be none.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from typing import Any

import pytest

from records import Case, dtype_name

SLOW = ("cuda", "triton")
"""Backends whose kernels are emulated or interpreted."""

REPRESENTATIVES = frozenset(
    ("sgd", "adamw", "rmsprop", "grda", "mix_clip", "ada_grad_norm_row", "SGD", "AdamW", "RMSprop", "GRDA", "MixClip")
)
"""Optimizers that reach every kernel: of each functor one, one that clips its direction, and one that sums norms."""

GRIDS: dict[str, tuple[str, ...]] = {}
"""Tests whose optimizers are all of a list, by the names of their files: on which backends representatives stand for
the others."""


def features(case: Case, dtype: Any) -> Iterator[Hashable]:
    """The paths of the code that a case of the conformance test reaches."""
    yield "rule", re.sub(r"^mix\d+_", "", case.rule.name)
    yield "functor", case.rule.cls.spec.family, dtype_name(dtype)
    yield "clip", case.clip.name
    yield "step size", case.pace.name
    yield from (("extension", type(extension).__name__) for extension in case.extras.extensions)


def beyond_cover(items: Sequence[pytest.Item]) -> list[pytest.Item]:
    """Those whose features other items have: a greedy cover, the cases with the most new features first, and among
    equal ones those of the type that is rarest so far."""
    missing = {item: set(features(item.callspec.params["case"], item.callspec.params["dtype"])) for item in items}
    chosen: set[pytest.Item] = set()
    types: Counter[Any] = Counter()
    while any(missing.values()):
        best = max(missing, key=lambda item: (len(missing[item]), -types[item.callspec.params["dtype"]]))
        found = missing[best]
        chosen.add(best)
        types[best.callspec.params["dtype"]] += 1
        missing = {item: left - found for item, left in missing.items()}
    return [item for item in items if item not in chosen]


def optimizer_of(item: pytest.Item) -> str | None:
    """The name of the optimizer, or of its class, that a case is of."""
    params = item.callspec.params
    for key in ("name", "cls", "rule", "recipe"):
        if key in params:
            value = params[key]
            return value if isinstance(value, str) else getattr(value, "__name__", getattr(value, "name", None))
    return None


def is_represented(item: pytest.Item) -> bool:
    """Whether another optimizer's case reaches what this one does."""
    backends = GRIDS.get(item.path.stem, ())
    name = optimizer_of(item)
    return item.callspec.params.get("backend") in backends and name is not None and name not in REPRESENTATIVES


def thorough_of(items: Sequence[pytest.Item]) -> list[pytest.Item]:
    """The cases that ``make test`` leaves out."""
    cases = [item for item in items if hasattr(item, "callspec")]
    left_out = [item for item in cases if is_represented(item)]
    for backend in SLOW:
        left_out += beyond_cover(
            [
                item
                for item in cases
                if item.originalname == "test_step_matches_float64" and item.callspec.params["backend"] == backend
            ]
        )
    return left_out
