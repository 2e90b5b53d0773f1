"""Steps of several processes beside those of one with the same gradients: see ``tests/support/sharded_cases.py``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch.distributed

import processes
import sharded_cases

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")


@pytest.fixture(scope="module", params=[2, 4])
def ran(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    """All cases in so many processes that are asked for, for one start."""
    ranks, folder = request.param, tmp_path_factory.mktemp("cases")
    wanted = [
        item.callspec.params["name"]
        for item in request.session.items
        if item.path == request.path and item.callspec.params["ran"] == ranks
    ]
    processes.run(sharded_cases.__name__, ranks, wanted, folder)
    yield ranks, folder


@pytest.mark.parametrize("name", sharded_cases.CASES)
def test_as_one_process(name: str, ran: tuple[int, Path]) -> None:
    said = processes.outcome(name, *ran)
    assert not said, said
