"""Builds torchclip._C, the compiled passes; the metadata is in pyproject.toml.

torch is not a build requirement, since an isolated build would compile against another torch than the one in use:

    pip install .                         the Python parts; the reference path runs everything
    pip install --no-build-isolation .    the compiled parts too, against the torch already installed

TORCHCLIP_BUILD chooses, and a choice that cannot be had is an error:

    auto    (default) the compiled parts where torch and a compiler are found, else the Python parts, and why;
            the CUDA passes where an nvcc is found, else without them, and why
    cpu     the CPU passes
    cuda    the CUDA passes too; csrc/cuda/build.py lists their settings
    none    the Python parts
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
import sysconfig
from importlib.metadata import PackageNotFoundError, version
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from setuptools import setup

CHOICES = ("auto", "cpu", "cuda", "none")
OLDEST_TORCH = (2, 11)
ROOT = Path(__file__).resolve().parent

# errno and floating-point traps are never looked at here, and honouring them keeps sqrt and min from being vectorised.
# -g0: Python's own flags often carry -g, which makes the library ten times as large.
# The standard too: torch 2.11 would choose C++17, and leaves alone what is chosen here.
COMPILE_FLAGS = ["-O3", "-std=c++20", "-fno-math-errno", "-fno-trapping-math", "-fvisibility=hidden"]
COMPILE_FLAGS += ["-Wall", "-g0"]
# No -fopenmp: the link would add the compiler's runtime to the one that torch brings, two thread pools in one process.
# csrc/cpu/parallel.h calls torch's copy, which is loaded first, by name.


def compiler() -> str | None:
    """The C++ compiler command that torch.utils.cpp_extension will run, or None where there is none."""
    if "CXX" not in os.environ and not shutil.which("c++") and shutil.which("g++"):
        os.environ["CXX"] = "g++"
    command = os.environ.get("CXX", "c++")
    return command if shutil.which(shlex.split(command)[0]) else None


def obstacle() -> str | None:
    """Why nothing can be compiled here, with the remedy; None where they can."""
    if not sys.platform.startswith("linux"):
        return f"the compiled parts are for Linux, and this is {sys.platform}"
    try:
        torch_version = version("torch")
    except PackageNotFoundError:
        return (
            "the build sees no torch: install torch, then run "
            "`pip install --no-build-isolation .` (without that option pip hides the installed torch from the build)"
        )
    numbers = [int(number) for number in re.findall(r"\d+", torch_version)[:2]]
    if tuple(numbers) < OLDEST_TORCH:
        return f"torch {torch_version} is installed, and {'.'.join(map(str, OLDEST_TORCH))} or later is needed"
    if compiler() is None:
        return "no C++ compiler was found: install g++ or clang++, or name one in CXX"
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        return f"Python.h is not in {sysconfig.get_path('include')}: install Python's headers (python3-dev)"
    return None


def relative(pattern: str) -> list[str]:
    return sorted(str(path.relative_to(ROOT)) for path in (ROOT / "csrc").glob(pattern))


def cuda_build() -> ModuleType:
    """csrc/cuda/build.py, which is in no package."""
    spec = spec_from_file_location("torchclip_cuda_build", ROOT / "csrc" / "cuda" / "build.py")
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def extension(choice: str) -> dict:
    """setup()'s arguments for torchclip._C."""
    from torch.utils.cpp_extension import BuildExtension, CppExtension

    # ninja may be installed in this environment without its folder being on PATH (`.venv/bin/pip install ...`).
    os.environ["PATH"] = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")])
    # torch would run two more compilers than there are cores.
    os.environ.setdefault("MAX_JOBS", str(len(os.sched_getaffinity(0))))
    module = CppExtension(
        "torchclip._C",
        sources=relative("*.cpp") + relative("cpu/*.cpp"),
        include_dirs=[str(ROOT / "csrc")],
        depends=relative("**/*.h"),
        extra_compile_args=COMPILE_FLAGS,
    )
    command = cuda_build().add_kernels(module, BuildExtension, choice)
    return {"ext_modules": [module], "cmdclass": {"build_ext": command}}


def compiled_parts() -> dict:
    choice = os.environ.get("TORCHCLIP_BUILD", "auto")
    if choice not in CHOICES:
        raise SystemExit(f"TORCHCLIP_BUILD={choice} is not one of {', '.join(CHOICES)}")
    if choice == "none":
        return {}
    reason = obstacle()
    if reason is None:
        return extension(choice)
    if choice != "auto":
        raise SystemExit(f"TORCHCLIP_BUILD={choice} cannot be had: {reason}")
    print(f"torchclip: the Python parts only, without compiled kernels: {reason}", file=sys.stderr)
    return {}


setup(**compiled_parts())
