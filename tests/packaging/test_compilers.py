"""Compilers other than the usual one: those that build the extension, and what happens where one does not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import torchclip
from package_builds import wheel_build
from places import CSRC, ROOT

FLAGS = ("-std=c++20", "-O3", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-Wall", "-Wno-unknown-pragmas")

# A loop, and everything that calls OpenMP's runtime.
SOURCE = """
#include "cpu/loops.h"
#include "cpu/passes.cpp"
namespace torchclip::cpu {
template int64_t update_loop<Momentum, 1, 0, float, float>(const Operands&, const Coefficients&);
}
"""

# Answers what it is asked of its version, and compiles nothing.
BROKEN = """#!/bin/sh
case "$*" in
  *--version*|*-dump*) exec c++ "$@" ;;
esac
echo "error: no such feature" >&2
exit 1
"""


# One of each kind; other versions when there is time.
OTHERS = [pytest.param(name, marks=pytest.mark.thorough) for name in ("g++-11", "g++-12")]


@pytest.mark.parametrize("name", ["g++", "clang++", "clang++-14", *OTHERS])
def test_loops_compile_and_call_the_runtime_that_torch_brings(name: str, tmp_path: Path) -> None:
    compiler = shutil.which(name)
    if compiler is None or shutil.which("nm") is None:
        pytest.skip(f"no {name} on PATH, or no nm, which reads objects")
    source, target = tmp_path / "loops.cpp", tmp_path / "loops.o"
    source.write_text(SOURCE)
    subprocess.run([compiler, *FLAGS, f"-I{CSRC}", "-c", source, "-o", target], check=True)
    symbols = subprocess.run(["nm", target], capture_output=True, text=True, check=True).stdout
    assert "U GOMP_parallel\n" in symbols
    assert "__kmpc_" not in symbols
    is_gcc = "Free Software" in subprocess.run([compiler, "--version"], capture_output=True, text=True).stdout
    if is_gcc and os.uname().machine == "x86_64":
        assert symbols.count("update_loop") >= 3  # one for each instruction set


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A compiler that fails."""
    path = tmp_path / "broken-c++"
    path.write_text(BROKEN)
    path.chmod(0o755)
    return path


def test_auto_goes_on_without_a_compiler_that_fails(tree: Path, tmp_path: Path, broken: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    finished = wheel_build(tree, out, "auto", CXX=str(broken), CUDACXX="/no/such/nvcc")
    assert finished.returncode == 0, finished.stderr
    assert f"torchclip: the Python parts only, without compiled kernels: {broken} failed: " in finished.stderr
    assert "TORCHCLIP_BUILD=cpu makes such a build an error" in finished.stderr
    assert "no such feature" in finished.stdout + finished.stderr
    assert [path.name for path in out.iterdir()] == [f"torchclip-{torchclip.__version__}-py3-none-any.whl"]


def test_cpu_fails_with_a_compiler_that_fails(tree: Path, tmp_path: Path, broken: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    finished = wheel_build(tree, out, "cpu", CXX=str(broken))
    assert finished.returncode != 0
    assert "no such feature" in finished.stdout + finished.stderr
    assert not list(out.iterdir())


def test_a_python_without_a_gil_is_a_reason() -> None:
    script = """
import runpy, sysconfig
asked = sysconfig.get_config_var
sysconfig.get_config_var = lambda name: 1 if name == "Py_GIL_DISABLED" else asked(name)
print(runpy.run_path("csrc/build.py")["unavailable_reason"]())
"""
    command = [sys.executable, "-c", script]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "the compiled parts rely on the GIL, and this Python is built without one" in printed
