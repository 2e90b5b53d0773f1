"""The loops over vectors with codecs in registers, each set of instructions compiled on its own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from instruction_sets import SETS, printed_by, requires
from places import CSRC, TESTS

FUNCTORS = sorted(set(re.findall(r"using Functor = (\w+);", "".join(p.read_text() for p in CSRC.glob("rules/*.h")))))


@pytest.mark.parametrize("functor", FUNCTORS)
@pytest.mark.parametrize("name", SETS)
def test_every_form_of_operands_has_the_bits_of_float32(name: str, functor: str, tmp_path: Path) -> None:
    requires(name)
    loops = f'-DTORCHCLIP_LOOPS="cpu/functor_{name}.cpp"'
    flags = ["-O1", "-DTORCHCLIP_CLONES=", f"-DTORCHCLIP_FUNCTOR={functor}", loops]
    assert printed_by(TESTS / "kernels" / "half_loops.cpp", tmp_path, flags) == "compared\n"
