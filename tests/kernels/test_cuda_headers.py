"""The rule headers are what a .cu file can include: nvcc compiles every functor for every architecture in use."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from kept import said
from places import CSRC, TESTS, nvcc


@pytest.mark.skipif(nvcc() is None, reason="no nvcc on PATH or under CUDA_HOME")
@pytest.mark.parametrize("architecture", ["sm_80", pytest.param("sm_90", marks=pytest.mark.thorough)])
def test_nvcc_compiles_every_functor_without_spills(architecture: str, tmp_path: Path) -> None:
    command = [
        str(nvcc()),
        "-std=c++20",
        f"-arch={architecture}",
        "-Xptxas=-v",
        "-Werror=all-warnings",
        f"-I{CSRC}",
        "-c",
        str(TESTS / "kernels" / "cuda_headers.cu"),
    ]

    def made() -> list[str]:
        target = ["-o", str(tmp_path / "headers.o")]
        result = subprocess.run([*command, *target], capture_output=True, text=True, timeout=300, check=False)
        assert result.returncode == 0, result.stderr
        return [result.stderr]

    (report,) = said(command, made)
    spills = re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", report)
    kernels = report.count("Compiling entry function")
    assert kernels == 45, "ten functors with their slots by four pairs of types, and the host-device functions"
    assert set(spills) == {("0", "0")}
