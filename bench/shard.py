"""A pytest plugin: `-p bench.shard --shard 1/8` runs the second eighth of what was selected.

`make gpu` spreads the conformance tests over processes with it, since pytest-xdist need not be installed there.
"""

import argparse
import re
from typing import Any

import pytest


def _shard(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None or int(match[1]) >= int(match[2]):
        raise argparse.ArgumentTypeError(f"expected INDEX/COUNT with an index below the count, got {text}")
    return int(match[1]), int(match[2])


def pytest_addoption(parser: Any) -> None:
    parser.addoption("--shard", type=_shard, default=(0, 1), metavar="INDEX/COUNT", help="run this part of the tests")


@pytest.hookimpl(trylast=True)  # after -k
def pytest_collection_modifyitems(config: Any, items: list[Any]) -> None:
    """Keeps the cases of this shard. All dtypes of a case stay together, since they share a run in float64."""
    index, count = config.getoption("--shard")
    cases: dict[str, int] = {}
    kept: list[Any] = []
    dropped: list[Any] = []
    for item in items:
        place = cases.setdefault(re.split("-(?:cuda|triton|cpu|reference)", item.nodeid)[0], len(cases))
        (kept if place % count == index else dropped).append(item)
    config.hook.pytest_deselected(items=dropped)
    items[:] = kept
