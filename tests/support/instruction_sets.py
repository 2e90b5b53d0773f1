"""Programs for one instruction set of x86-64, compiled by g++."""

from __future__ import annotations

import platform
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from emulated import build_script
from places import CSRC, ROOT

COMPILER = shutil.which("g++")

FLAGS = ("-std=c++20", "-O3", "-fno-math-errno", "-fno-trapping-math", "-Wall")

SETS = {"avx2": "x86-64-v3", "avx512": "x86-64-v4"}
"""Those that csrc/cpu has headers for, and the least architecture with each."""


def requires(name: str) -> None:
    """Skips a test of loops over the vectors of one of SETS where they cannot be compiled, or do not run."""
    if COMPILER is None or platform.machine() != "x86_64":
        pytest.skip("they are for x86-64, by g++")
    if not runs_here(SETS[name]):
        pytest.skip(f"this processor has no {name}")


def runs_here(architecture: str) -> bool:
    """Whether this processor has the instructions."""
    needed = {"x86-64-v3": {"avx2", "fma"}, "x86-64-v4": {"avx512f", "avx512vl", "avx512bw", "avx512dq"}}
    flags = Path("/proc/cpuinfo")
    return needed.get(architecture, set()) <= set(flags.read_text().split() if flags.exists() else [])


def printed_by(source: Path, folder: Path, flags: Sequence[str] = ()) -> str:
    """What a program prints that is compiled from a file of the tests, in a folder of its own."""
    program = folder / source.stem
    part = program.with_suffix(".o")
    compiler = [*build_script("build.py").launcher(), str(COMPILER), *FLAGS, *flags, f"-I{CSRC}"]
    compile_ = [*compiler, "-MD", "-MF", str(part.with_suffix(".d")), "-c", str(source), "-o", str(part)]
    for command in (compile_, [str(COMPILER), str(part), "-o", str(program)]):
        build = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
        assert build.returncode == 0, build.stderr
    return subprocess.run([program], capture_output=True, text=True, check=True).stdout
