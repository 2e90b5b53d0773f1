"""The loops for AVX2 with codecs in registers, compiled on their own: a processor that has more takes others."""

from __future__ import annotations

import platform
import re
from pathlib import Path

import pytest

from instruction_sets import COMPILER, printed_by, runs_here
from places import CSRC, TESTS

FUNCTORS = sorted(set(re.findall(r"using Functor = (\w+);", "".join(p.read_text() for p in CSRC.glob("rules/*.h")))))


@pytest.mark.skipif(COMPILER is None or platform.machine() != "x86_64", reason="they are for x86-64, by g++")
@pytest.mark.parametrize("functor", FUNCTORS)
def test_every_form_of_operands_has_the_bits_of_float32(functor: str, tmp_path: Path) -> None:
    if not runs_here("x86-64-v3"):
        pytest.skip("this processor has no AVX2")
    flags = ["-O1", "-DTORCHCLIP_CLONES=", f"-DTORCHCLIP_FUNCTOR={functor}"]
    assert printed_by(TESTS / "kernels" / "half_loops.cpp", tmp_path, flags) == "compared\n"
