"""8-bit codes by arithmetic, eight at a time: those of the nearest values, whatever the number."""

from __future__ import annotations

import platform
import shutil
import subprocess
from pathlib import Path

import pytest

from instruction_sets import FLAGS, runs_here
from places import CSRC, TESTS

COMPILER = shutil.which("g++")


@pytest.mark.skipif(COMPILER is None or platform.machine() != "x86_64", reason="they are for x86-64, by g++")
def test_every_vector_has_the_nearest_codes(tmp_path: Path) -> None:
    if not runs_here("x86-64-v3"):
        pytest.skip("this processor has no AVX2")
    program = tmp_path / "block_codes"
    source = TESTS / "kernels" / "block_codes.cpp"
    build = subprocess.run(
        [COMPILER, *FLAGS, f"-I{CSRC}", source, "-o", program], capture_output=True, text=True, check=False
    )
    assert build.returncode == 0, build.stderr
    assert subprocess.run([program], capture_output=True, text=True, check=True).stdout == "compared\n"
