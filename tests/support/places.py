"""Where things are in the repository, and the tools that some tests need."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

SUPPORT = Path(__file__).resolve().parent
TESTS = SUPPORT.parent
ROOT = TESTS.parent
CSRC = ROOT / "csrc"

PYTHONPATH = os.pathsep.join([str(ROOT), str(SUPPORT)])
"""For processes that import what tests do."""


def nvcc() -> str | None:
    """CUDA's compiler, on PATH or under CUDA_HOME; None where there is none."""
    home = os.environ.get("CUDA_HOME")
    return shutil.which("nvcc") or (shutil.which("nvcc", path=str(Path(home, "bin"))) if home else None)
