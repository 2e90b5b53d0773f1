"""Programs for one instruction set of x86-64, compiled by g++."""

from __future__ import annotations

from pathlib import Path

FLAGS = ("-std=c++20", "-O3", "-fno-math-errno", "-fno-trapping-math", "-Wall")


def runs_here(architecture: str) -> bool:
    """Whether this processor has the instructions."""
    needed = {"x86-64-v3": {"avx2", "fma"}, "x86-64-v4": {"avx512f", "avx512vl", "avx512bw", "avx512dq"}}
    flags = Path("/proc/cpuinfo")
    return needed.get(architecture, set()) <= set(flags.read_text().split() if flags.exists() else [])
