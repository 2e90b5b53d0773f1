"""The rule headers are what a .cu file can include: nvcc compiles every functor for every architecture in use."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def _nvcc() -> str | None:
    home = os.environ.get("CUDA_HOME")
    return shutil.which("nvcc") or (shutil.which("nvcc", path=str(Path(home, "bin"))) if home else None)


@pytest.mark.skipif(_nvcc() is None, reason="no nvcc on PATH or under CUDA_HOME")
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
def test_nvcc_compiles_every_functor_without_spills(architecture: str, tmp_path: Path) -> None:
    command = [
        _nvcc(),
        "-std=c++20",
        f"-arch={architecture}",
        "-Xptxas=-v",
        "-Werror=all-warnings",
        f"-I{ROOT / 'csrc'}",
    ]
    command += ["-c", str(ROOT / "tests" / "cuda_headers.cu"), "-o", str(tmp_path / "headers.o")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
    spills = re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", result.stderr)
    kernels = result.stderr.count("Compiling entry function")
    assert kernels == 37, "nine functors with their slots by four pairs of types, and the host-device functions"
    assert set(spills) == {("0", "0")}
