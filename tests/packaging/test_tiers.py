"""The tests that are chosen from by name are there: one that is renamed would run whole, or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

import tiers

TESTS = Path(__file__).parent.parent


@pytest.mark.parametrize("name", [tiers.CONFORMANCE, *tiers.TRACED, *tiers.AROUND_A_TRACED_STEP])
def test_each_test_is_there(name: str) -> None:
    files = [path.name for path in TESTS.rglob("test_*.py") if f"\ndef {name}(" in path.read_text()]
    assert len(files) == 1


@pytest.mark.parametrize("folder", tiers.BEFORE_KERNELS)
def test_each_folder_is_there(folder: str) -> None:
    assert list((TESTS / folder).glob("test_*.py"))


class Worker:
    """Of pytest-xdist, which is sent tests by their numbers."""

    shutting_down = False

    def __init__(self) -> None:
        self.sent: list[list[int]] = []

    def send_runtest_some(self, numbers: list[int]) -> None:
        self.sent.append(numbers)

    def shutdown(self) -> None:
        self.shutting_down = True


def test_tests_are_handed_out_a_few_at_a_time(pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a group together, however many; and what is done is forgotten."""
    scheduling = pytest.importorskip("scheduling", reason="pytest-xdist hands tests out")
    monkeypatch.setattr("xdist.scheduler.loadscope.parse_tx_spec_config", lambda config: [worker])
    size, worker = scheduling.CHUNK, Worker()
    names = [f"t.py::test_a[{number}]" for number in range(2 * size)]
    names += [f"t.py::test_b[{number}]@together" for number in range(3 * size)]
    chunks = scheduling.Chunks(pytestconfig)
    chunks.add_node(worker)
    chunks.add_node_collection(worker, names)
    chunks.schedule()
    for number in (number for numbers in worker.sent for number in numbers):  # more of which come meanwhile
        chunks.mark_test_complete(worker, number)
    together, first, second = worker.sent
    assert together == list(range(2 * size, 5 * size))
    assert first + second == list(range(2 * size)) and len(first) == size
    assert worker.shutting_down and chunks.assigned_work[worker] == {}


@pytest.mark.xdist_group("together")
def test_workers_keep_groups_together(request: pytest.FixtureRequest) -> None:
    """pytest-xdist sends a group to one worker by the name behind its tests' names; without it each worker makes what
    the group's tests share."""
    if not hasattr(request.config, "workerinput"):
        pytest.skip("there is one process")
    assert request.node.nodeid.endswith("@together")
