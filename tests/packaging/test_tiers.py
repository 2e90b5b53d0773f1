"""The tests that are chosen from by name are there: one that is renamed would run whole, or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

import tiers

TESTS = Path(__file__).parent.parent


@pytest.mark.parametrize("name", [tiers.CONFORMANCE, *tiers.TRACED])
def test_each_test_is_there(name: str) -> None:
    files = [path.name for path in TESTS.rglob("test_*.py") if f"\ndef {name}(" in path.read_text()]
    assert len(files) == 1


@pytest.mark.parametrize("folder", tiers.BEFORE_KERNELS)
def test_each_folder_is_there(folder: str) -> None:
    assert list((TESTS / folder).glob("test_*.py"))


@pytest.mark.xdist_group("together")
def test_workers_keep_groups_together(request: pytest.FixtureRequest) -> None:
    """pytest-xdist sends a group to one worker by the name behind its tests' names; without it each worker makes what
    the group's tests share."""
    if not hasattr(request.config, "workerinput"):
        pytest.skip("there is one process")
    assert request.node.nodeid.endswith("@together")
