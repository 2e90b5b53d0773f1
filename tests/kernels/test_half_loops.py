"""The loops over vectors with codecs in registers, each set of instructions compiled on its own."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from instruction_sets import COMPILER, FLAGS, SETS, printed_by, requires
from places import CSRC, TESTS

FUNCTORS = sorted(set(re.findall(r"using Functor = (\w+);", "".join(p.read_text() for p in CSRC.glob("rules/*.h")))))


@pytest.mark.parametrize("functor", FUNCTORS)
@pytest.mark.parametrize("name", SETS)
def test_every_form_of_operands_has_the_bits_of_float32(name: str, functor: str, tmp_path: Path) -> None:
    requires(name)
    loops = f'-DTORCHCLIP_LOOPS="cpu/functor_{name}.cpp"'
    flags = ["-O1", "-DTORCHCLIP_CLONES=", f"-DTORCHCLIP_FUNCTOR={functor}", loops]
    assert printed_by(TESTS / "kernels" / "half_loops.cpp", tmp_path, flags) == "compared\n"


@pytest.mark.parametrize("name", SETS)
def test_nothing_is_shared_with_other_files(name: str, tmp_path: Path) -> None:
    """What several files have, the linker takes from any of them, and a lesser processor would run it."""
    requires(name)
    if shutil.which("nm") is None:
        pytest.skip("no nm on PATH")
    part = tmp_path / "part.o"
    source = str(CSRC / "cpu" / f"functor_{name}.cpp")
    command = [str(COMPILER), *FLAGS, "-O0", "-DTORCHCLIP_FUNCTOR=Lion", f"-I{CSRC}", "-c", source, "-o", str(part)]
    subprocess.run(command, check=True)
    listed = subprocess.run(["nm", "-C", str(part)], check=True, capture_output=True, text=True).stdout
    shared = [line for line in listed.splitlines() if re.search(r"^\w* +W ", line)]
    assert shared and not [line for line in shared if name not in line.lower()]
