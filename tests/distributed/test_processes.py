"""Steps of several processes beside those of one: see ``sharded_cases.py`` and ``wrapped_cases.py`` in tests/support.

Processes are expensive to start, and each start serves all cases of a module. Two of them stand in the fast tier.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest
import torch.distributed

import processes
import sharded_cases
import wrapped_cases

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")


class Start(NamedTuple):
    """One start of processes."""

    module: str
    ranks: int


CASES = {module.__name__: module.CASES for module in (sharded_cases, wrapped_cases)}
STARTS = [Start(module, ranks) for module in CASES for ranks in (2, 4)]


def _tiers() -> list[object]:
    """The models in two processes, in four the parameters, among which more kinds of placements are."""
    fast = (Start("wrapped_cases", 2), Start("sharded_cases", 4))
    return [
        pytest.param(start, name, id=f"{name}-{start.ranks}", marks=() if start in fast else pytest.mark.thorough)
        for start in STARTS
        for name in CASES[start.module]
    ]


@pytest.fixture(scope="module")
def folders(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[Start, Path]:
    """Of each start that a test of this session asks for, where its outcomes are."""
    asked: dict[Start, list[str]] = {}
    for item in request.session.items:
        if item.path == request.path and "start" in getattr(getattr(item, "callspec", None), "params", {}):
            asked.setdefault(item.callspec.params["start"], []).append(item.callspec.params["name"])
    found = {}
    for start, names in asked.items():
        found[start] = tmp_path_factory.mktemp("cases")
        processes.run(start.module, start.ranks, names, found[start])
    return found


@pytest.mark.parametrize("start, name", _tiers())
def test_as_one_process(start: Start, name: str, folders: dict[Start, Path]) -> None:
    said = processes.outcome(name, start.ranks, folders[start])
    assert not said, said
