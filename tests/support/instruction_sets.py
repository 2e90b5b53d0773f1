"""Programs for one instruction set of x86-64, compiled by g++."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from emulated import build_script
from places import CSRC, ROOT

COMPILER = shutil.which("g++")

FLAGS = ("-std=c++20", "-O3", "-fno-math-errno", "-fno-trapping-math", "-Wall")


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
