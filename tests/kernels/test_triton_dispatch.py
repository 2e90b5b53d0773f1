"""What a step on Triton launches and compiles, through Triton's own dispatch with a driver that has no GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from places import SUPPORT
from torchclip.backends import native

pytest.importorskip("triton", reason="Triton is an optional dependency of the package")

pytestmark = pytest.mark.skipif(native.NATIVE is None, reason="torchclip._C is not built")

CHECKS = SUPPORT / "triton_dispatch.py"


def test_steps_launch_two_kernels_and_compile_them_once(tmp_path: Path) -> None:
    # Triton decides when it is imported whether functions are interpreted; its cache would hide a compilation.
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    result = subprocess.run([sys.executable, str(CHECKS)], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
