"""What each test costs: CPU seconds of its process and of those that it started, by folder.

    python -m pytest -p costs --costs=costs.json -n 2

The file has a number for each test; the table at the end, one for each folder of tests. Wall time says less: tests run
beside one another, and beside the builds of those that come later.
"""

from __future__ import annotations

import json
import resource
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--costs", metavar="FILE", help="write the CPU seconds of each test to a JSON file")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--costs") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Ledger(Path(config.getoption("--costs"))))


def spent() -> float:
    """CPU seconds so far of this process, and of the ended ones that it started."""
    whose = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(usage.ru_utime + usage.ru_stime for usage in map(resource.getrusage, whose))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    item.stash[BEGAN] = spent()
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report = yield
    now = spent()
    item.stash[BEGAN], began = now, item.stash[BEGAN]
    report.user_properties = [("cpu_seconds", now - began)]
    return report


BEGAN = pytest.StashKey[float]()


class Ledger:
    """Adds up what the reports of all processes say."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.costs: dict[str, float] = defaultdict(float)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.costs[report.nodeid] += dict(report.user_properties).get("cpu_seconds", 0.0)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        self.path.write_text(json.dumps(self.costs, indent=0))
        folders: dict[str, list[float]] = defaultdict(list)
        for name, cost in self.costs.items():
            folders["/".join(name.partition("::")[0].split("/")[:-1])].append(cost)
        terminalreporter.write_line("CPU seconds  tests  folder")
        for folder, costs in sorted(folders.items(), key=lambda item: -sum(item[1])):
            terminalreporter.write_line(f"{sum(costs):11.0f}  {len(costs):5}  {folder}")
        terminalreporter.write_line(f"{sum(self.costs.values()):11.0f}  {len(self.costs):5}  all")
