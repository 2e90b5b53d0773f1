"""The kernels of ``csrc/cuda``: run on the CPU under the emulator, plain and with sanitizers, and compiled by nvcc.

The programs beside this file (``cuda_updates.cu``, ``cuda_norms.cu``, ``cuda_directions.cu``) compare every kernel with
plain loops; the emulator runs threads and blocks in several orders, so that a result that depends on one shows.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from test_cuda_headers import _nvcc

ROOT = Path(__file__).resolve().parent.parent
PASSES = ROOT / "csrc" / "cuda" / "passes.cu"
EMULATOR = ROOT / "tests" / "cuda_emulator"
INCLUDES = [f"-I{ROOT / 'csrc'}", f"-I{ROOT / 'tests'}"]
PROGRAMS = ("updates", "norms", "directions")
ORDERS = ("ascending", "descending", "shuffled:1")
ARCHITECTURES = ("sm_80", "sm_90")

# fp-contract: as on a GPU without fused operations, so that the kernels' results are those of the plain loops, bit for
# bit. no-strict-aliasing: 16-byte accesses to arrays of other types are CUDA's usage.
FLAGS = ["-std=c++20", "-ffp-contract=off", "-fno-strict-aliasing", "-fvisibility=hidden", "-Wno-unknown-pragmas"]
BUILDS = {
    "plain": ["-O1"],
    "sanitized": ["-O1", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"],
}


def run(*command: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """The finished process."""
    return subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=900, env={**os.environ, **environment}
    )


def compiled(*command: object) -> None:
    """Fails with the compiler's words."""
    result = run(*command)
    assert result.returncode == 0, result.stderr[-4000:]


@pytest.fixture(scope="module", params=BUILDS)
def programs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The programs, each linked with the kernels and the emulator."""
    folder = tmp_path_factory.mktemp(request.param)
    options = [*FLAGS, *BUILDS[request.param], f"-I{EMULATOR / 'include'}", *INCLUDES]
    sources = [PASSES, *(ROOT / "tests" / f"cuda_{name}.cu" for name in PROGRAMS), *sorted(EMULATOR.glob("*.cpp"))]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = {source.stem: folder / f"{source.stem}.o" for source in sources}
        jobs = [
            pool.submit(compiled, "g++", *options, "-x", "c++", "-c", source, "-o", objects[source.stem])
            for source in sources
        ]
        for job in jobs:
            job.result()
    shared = [objects[source.stem] for source in sources if not source.stem.startswith("cuda_")]
    linked = {}
    for name in PROGRAMS:
        linked[name] = folder / name
        compiled("g++", *options, objects[f"cuda_{name}"], *shared, "-o", linked[name])
    return linked


@pytest.mark.slow
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", PROGRAMS)
def test_kernels_agree_with_plain_loops(programs: dict[str, Path], name: str, order: str) -> None:
    result = run(programs[name], TORCHCLIP_EMULATOR_ORDER=order)
    assert result.returncode == 0, (result.stdout + result.stderr)[-4000:]
    assert result.stdout.strip() == "0 failures"


@pytest.mark.slow
@pytest.mark.skipif(_nvcc() is None or shutil.which("ptxas") is None, reason="no nvcc and ptxas on PATH")
def test_nvcc_compiles_every_kernel(tmp_path: Path) -> None:
    """No spills, at most the registers that two blocks per multiprocessor leave, and every access 16 bytes wide."""

    def build(architecture: str) -> tuple[str, str]:
        assembly = tmp_path / f"{architecture}.ptx"
        flags = ["-std=c++20", "-O3", f"-arch={architecture}", "-Werror=all-warnings", *INCLUDES]
        compiled(_nvcc(), *flags, "-ptx", PASSES, "-o", assembly)
        report = run("ptxas", "-v", f"-arch={architecture}", assembly, "-o", tmp_path / f"{architecture}.cubin")
        assert report.returncode == 0, report.stderr[-4000:]
        return report.stderr, assembly.read_text()

    with ThreadPoolExecutor(len(ARCHITECTURES)) as pool:
        results = list(pool.map(build, ARCHITECTURES))
    for report, assembly in results:
        kernels = report.count("Compiling entry function")
        assert kernels == assembly.count(".entry ") > 200
        assert set(re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", report)) == {("0", "0")}
        registers = [int(number) for number in re.findall(r"Used (\d+) registers", report)]
        assert len(registers) == kernels and max(registers) <= 65536 // (256 * 2)
        assert not re.search(r"\b(ld|st)\.local", assembly)
        for entry in assembly.split(".entry ")[1:]:
            name = entry.split("(")[0]
            if "update_kernel" in name or "norm_kernel" in name:
                assert "ld.global.cg.v4.u32" in entry, name
            if "update_kernel" in name:
                assert "st.global.cg.v4.u32" in entry and "st.global.cs.v4.u32" in entry, name
