"""The CPU's loops over elements are vectorised: one that is not takes ten times as long, and nothing else tells."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from kept import said
from places import CSRC

FUNCTORS = ("Momentum", "SecondMoment", "RootMeanSquare", "SoftThreshold", "Lion")
TYPES = ("float, float", "BFloat16, float")
MORE_TYPES = ("double, double", "BFloat16, BFloat16", "Float16, Float16")
LOOPS = ("update_loop", "update_pieces_loop")

MISSED = {"double, double": 3}
"""SoftThreshold's three loops for SSE2, which cannot count zeros in 32 bits beside doubles."""

INNER = re.compile(r"^ +for \(int64_t i = 0; i < (?:operands\.)?count; \+\+i\) \{$")


def is_gcc() -> bool:
    if shutil.which("g++") is None or platform.machine() != "x86_64":
        return False
    return "Free Software Foundation" in subprocess.run(["g++", "--version"], capture_output=True, text=True).stdout


@pytest.mark.skipif(not is_gcc(), reason="what is vectorised is read from the report of GCC, for x86-64")
@pytest.mark.parametrize("types", [*TYPES, *(pytest.param(each, marks=pytest.mark.thorough) for each in MORE_TYPES)])
def test_loops_of_every_functor(types: str, tmp_path: Path) -> None:
    arguments = {"update_loop": "", "update_pieces_loop": ", const Extensions&"}
    lines = ["#include <iterator>", '#include "cpu/loops.h"', "namespace torchclip::cpu {"]
    lines += [
        f"template int64_t {loop}<{functor}, *(std::end({functor}::kSlotMasks) - 1), 0, {types}>"
        f"(const Operands&, const Coefficients&{arguments[loop]});"
        for functor in FUNCTORS
        for loop in LOOPS
    ]
    source = tmp_path / "loops.cpp"
    source.write_text("\n".join([*lines, "}", ""]))
    command = ["g++", "-std=c++20", "-O3", "-fno-math-errno", "-fno-trapping-math", f"-I{CSRC}", "-fopt-info-vec-all"]

    def made() -> list[str]:
        files = ["-c", str(source), "-o", str(tmp_path / "loops.o")]
        return [subprocess.run([*command, *files], capture_output=True, text=True, check=True).stderr]

    (report,) = said([*command, source.read_text()], made)
    text = (CSRC / "cpu" / "loops.h").read_text().splitlines()
    inner = {number for number, line in enumerate(text, 1) if INNER.match(line)}

    def at_inner_loops(words: str) -> int:
        found = re.findall(rf"loops\.h:(\d+):\d+: {words}", report)
        return sum(int(number) in inner for number in found)

    # One loop in the first, two in the second, for each of three instruction sets.
    assert at_inner_loops("optimized: loop vectorized") >= 3 * 3 * len(FUNCTORS)
    assert at_inner_loops("missed: *couldn't vectorize loop") == MISSED.get(types, 0)
