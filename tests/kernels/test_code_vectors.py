"""8-bit codes, eight at a time: those that each of the elements has alone."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from instruction_sets import COMPILER, printed_by, runs_here
from places import TESTS


@pytest.mark.skipif(COMPILER is None or platform.machine() != "x86_64", reason="they are for x86-64, by g++")
def test_a_vector_has_the_codes_of_its_elements(tmp_path: Path) -> None:
    if not runs_here("x86-64-v3"):
        pytest.skip("this processor has no AVX2")
    assert printed_by(TESTS / "kernels" / "code_vectors.cpp", tmp_path) == "compared\n"
