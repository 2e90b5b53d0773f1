"""Which kernels each test reaches: ``python -m pytest -p paths --paths=paths.json -n 2 tests/kernels``.

Of the emulated CUDA kernels every instance of a template is one, and of Triton's every set of constants. The file has
them by test. The summary names those that thorough tests alone reach: a path of the code that ``make test`` leaves out.
That of the CPU's loops it leaves out none: they are as fast as what surrounds them, and no case of theirs is thorough.
"""

from __future__ import annotations

import ctypes
import functools
import inspect
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import emulated

CAPACITY = 4096


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--paths", metavar="FILE", help="write the kernels that each test reaches to a JSON file")


def pytest_configure(config: pytest.Config) -> None:
    watch_interpreter()
    if config.getoption("--paths") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Ledger(Path(config.getoption("--paths"))))


interpreted: set[str] = set()


def watch_interpreter() -> None:
    """From here on the kernels that Triton's interpreter runs are written down."""
    try:
        from triton.runtime.interpreter import InterpretedFunction
    except ImportError:
        return
    run = InterpretedFunction.run

    @functools.wraps(run)
    def noted(self: Any, *arguments: Any, **options: Any) -> Any:
        parameters = inspect.signature(self.fn).parameters
        constants = {
            name: value
            for name, value in zip(self.arg_names, arguments)
            if "constexpr" in str(parameters[name].annotation)
        }
        interpreted.add(f"triton {self.fn.__name__} {constants}")
        return run(self, *arguments, **options)

    InterpretedFunction.run = noted


@functools.cache
def symbols() -> dict[int, str]:
    """The functions of the emulated module by where they lie in its file."""
    listed = subprocess.run(["nm", "-C", emulated.load().__file__], capture_output=True, text=True, check=True).stdout
    found = re.finditer(r"^([0-9a-f]+) [tTwW] (.*)$", listed, re.MULTILINE)
    return {int(match[1], 16): match[2] for match in found}


@functools.cache
def where_it_lies() -> int:
    """The difference between the address of a function of the module and its place in the file."""
    here = ctypes.cast(emulated.emulator().take_kernels, ctypes.c_void_p).value
    place = next(place for place, name in symbols().items() if name == "torchclip_emulator_take_kernels")
    return (here or 0) - place


def launched() -> set[str]:
    """The emulated kernels since the last call."""
    if not emulated._attempt.cache_info().currsize:
        return set()
    addresses = (ctypes.c_void_p * CAPACITY)()
    count = emulated.emulator().take_kernels(addresses, ctypes.c_int64(CAPACITY))
    return {f"cuda {symbols()[address - where_it_lies()]}" for address in addresses[:count] if address}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report = yield
    if report.when == "teardown":
        is_thorough = item.get_closest_marker("thorough") is not None
        report.user_properties = [*report.user_properties, ("paths", [is_thorough, *sorted(launched() | interpreted)])]
        interpreted.clear()
    return report


class Ledger:
    """What the reports of all processes say."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.paths: dict[str, list[str]] = {}
        self.reached: dict[bool, set[str]] = {False: set(), True: set()}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        is_thorough, *paths = dict(report.user_properties).get("paths", [False])
        self.reached[bool(is_thorough)].update(paths)
        if paths:
            self.paths[report.nodeid] = paths

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        self.file.write_text(json.dumps(self.paths, indent=0))
        fast, thorough = self.reached[False], self.reached[True]
        terminalreporter.write_line(f"{len(fast | thorough)} kernels are reached, {len(fast)} of them by make test.")
        for path in sorted(thorough - fast):
            terminalreporter.write_line(f"by thorough tests alone: {path}")
