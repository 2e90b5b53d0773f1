"""A time after which no test is started: ``pytest -p deadline --deadline=EPOCH``. What is left out is said."""

from __future__ import annotations

import time
from collections import Counter

import pytest

REASON = "left out, since its time was over"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--deadline", type=float, metavar="EPOCH", help="seconds of the epoch")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    deadline = item.config.getoption("--deadline")
    if deadline is not None and time.time() > deadline:
        pytest.skip(REASON)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = terminalreporter.stats.get("skipped", [])
    files = Counter(report.nodeid.partition("::")[0] for report in skipped if REASON in str(report.longrepr))
    for file, count in files.items():
        terminalreporter.write_line(f"{count} tests of {file}: {REASON}")
