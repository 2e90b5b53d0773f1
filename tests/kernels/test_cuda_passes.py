"""The kernels of ``csrc/cuda``: run on the CPU under the emulator, plain and with sanitizers, and compiled by nvcc.

The programs beside this file (``cuda_updates.cu``, ``cuda_norms.cu`` and others) compare the kernels with plain loops;
the emulator runs threads and blocks in several orders, so that a result that depends on one shows.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import emulated
from kept import said
from places import CSRC, nvcc

KERNELS = emulated.build_script("cuda", "build.py").units()
INCLUDES = [f"-I{CSRC}"]
ORDERS = ("shuffled:1", *(pytest.param(order, marks=pytest.mark.thorough) for order in ("ascending", "descending")))
BUILD = (CSRC / "cuda" / "build.py").read_text()
ARCHITECTURES = re.findall(r"\d+", BUILD.partition("DEFAULT_ARCHITECTURES = ")[2].partition("\n")[0])
"""Those that a build is for."""


def run(*command: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """The finished process."""
    return subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=900, env={**os.environ, **environment}
    )


def compiled(*command: object) -> None:
    """Fails with the compiler's words."""
    result = run(*command)
    assert result.returncode == 0, result.stderr[-4000:]


@pytest.fixture(scope="module", params=["plain", pytest.param("sanitized", marks=pytest.mark.thorough)])
def programs(request: pytest.FixtureRequest) -> dict[str, Path]:
    """The programs, each linked with the kernels and the emulator."""
    if emulated.unbuilt_reason() is not None:
        pytest.skip(str(emulated.unbuilt_reason()))
    return emulated.built_programs(request.param)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", [source.stem for source in emulated.PROGRAMS])
def test_kernels_agree_with_plain_loops(programs: dict[str, Path], name: str, order: str) -> None:
    result = run(programs[name], TORCHCLIP_EMULATOR_ORDER=order)
    assert result.returncode == 0, (result.stdout + result.stderr)[-4000:]
    assert result.stdout.strip() == "0 failures"


def compile_for(architecture: str, folder: Path, units: Sequence[Any]) -> list[tuple[str, str]]:
    """What ptxas reports of every unit, and the assembly."""

    def build(unit: Any) -> tuple[str, str]:
        assembly = folder / f"{unit.name}.ptx"
        flags = ["-std=c++20", "-O3", f"-arch=sm_{architecture}", "-Werror=all-warnings", *INCLUDES]
        command = [str(nvcc()), *flags, *unit.flags, "-ptx", str(unit.source)]

        def made() -> list[str]:
            compiled(*command, "-o", assembly)
            report = run("ptxas", "-v", f"-arch=sm_{architecture}", assembly, "-o", assembly.with_suffix(".cubin"))
            assert report.returncode == 0, report.stderr[-4000:]
            return [report.stderr, assembly.read_text()]

        report, text = said(command, made, "ptxas")
        return report, text

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # one after the other would take minutes; the largest come first
        return list(pool.map(build, sorted(units, key=lambda unit: unit.name not in LARGEST)))


MOST_REGISTERS = 65536 // (256 * 2)
"""Those that two blocks per multiprocessor leave."""

LARGEST = ("functor_Momentum", "functor_RootMeanSquare")
SMALLEST = [unit for unit in KERNELS if unit.name == "functor_Lion"]


@pytest.mark.skipif(nvcc() is None or shutil.which("ptxas") is None, reason="no nvcc and ptxas on PATH")
@pytest.mark.parametrize(
    "architecture, units, least",
    [
        pytest.param("90", SMALLEST, 10, id="90-smallest"),
        *(pytest.param(each, KERNELS, 300, id=f"{each}-all", marks=pytest.mark.thorough) for each in ARCHITECTURES),
    ],
)
def test_nvcc_compiles_kernels(architecture: str, units: Sequence[Any], least: int, tmp_path: Path) -> None:
    """No spills, at most the registers that two blocks per multiprocessor leave, and every access 16 bytes wide; an
    update that may begin early looks at no operand before it has waited."""
    total = 0
    for report, assembly in compile_for(architecture, tmp_path, units):
        kernels = report.count("Compiling entry function")
        assert kernels == assembly.count(".entry ")
        total += kernels
        if kernels == 0:
            continue
        assert set(re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", report)) == {("0", "0")}
        registers = re.findall(r"Compiling entry function '(\S+)'.*?Used (\d+) registers", report, re.DOTALL)
        assert len(registers) == kernels
        # Blocks that update a policy's operands are half as large, and their launch bounds ask for two to four of them.
        assert all(int(number) <= MOST_REGISTERS for name, number in registers if "coded_update_kernel" not in name)
        assert not re.search(r"\b(ld|st)\.local", assembly)
        for entry in assembly.split(".entry ")[1:]:
            name = entry.split("(")[0]
            waits, tells = (f"griddepcontrol.{word}" in entry for word in ("wait", "launch_dependents"))
            if "update_kernel" in name or "norm_kernel" in name:
                assert "ld.global.cg.L2::cache_hint.v4.u32" in entry, name
            if "update_kernel" in name:
                assert "st.global.cg.L2::cache_hint.v4.u32" in entry, name
            two_launches = int(architecture) >= 90 and "_and_" not in name
            assert waits == (two_launches and "update_kernel" in name), name
            assert tells == (two_launches and "norm_kernel" in name), name
            if waits:
                early = entry.partition("griddepcontrol.wait")[0]
                assert "prefetch.global.L2" in early and "ld.global.cg" not in early, name
    assert total > least
