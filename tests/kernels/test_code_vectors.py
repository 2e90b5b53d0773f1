"""8-bit codes, a vector at a time: those that each of the elements has alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from instruction_sets import SETS, printed_by, requires
from places import TESTS


@pytest.mark.parametrize("name", SETS)
def test_a_vector_has_the_codes_of_its_elements(name: str, tmp_path: Path) -> None:
    requires(name)
    flags = [f"-march={SETS[name]}", f'-DTORCHCLIP_SET="cpu/{name}.h"']
    assert printed_by(TESTS / "kernels" / "code_vectors.cpp", tmp_path, flags) == "compared\n"
