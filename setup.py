"""Builds torchclip._C, the compiled passes; the metadata is in pyproject.toml.

torch is not a build requirement, since an isolated build would compile against another torch than the one in use:

    pip install .                         the Python parts; the reference path runs everything
    pip install --no-build-isolation .    the compiled parts too, against the torch already installed

TORCHCLIP_BUILD chooses, and a choice that cannot be had is an error:

    auto    (default) the compiled parts where torch and a compiler are found that builds them, else the Python parts,
            and why; the CUDA passes where an nvcc is found that does, else without them, and why
    cpu     the CPU passes
    cuda    the CUDA passes too; csrc/cuda/build.py lists their settings
    none    the Python parts
"""

from __future__ import annotations

import os
import sys
import sysconfig
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from setuptools import setup

CHOICES = ("auto", "cpu", "cuda", "none")
ROOT = Path(__file__).resolve().parent

# errno and floating-point traps are never looked at here, and honouring them keeps sqrt and min from being vectorised.
# -g0: Python's own flags often carry -g, which makes the library ten times as large.
# The standard too: torch 2.11 would choose C++17, and leaves alone what is chosen here.
COMPILE_FLAGS = ["-O3", "-std=c++20", "-fno-math-errno", "-fno-trapping-math", "-fvisibility=hidden"]
COMPILE_FLAGS += ["-Wall", "-g0"]
# No -fopenmp: the link would add the compiler's runtime to the one that torch brings, two thread pools in one process.
# csrc/cpu/parallel.h calls torch's copy, which is loaded first, by name.


def relative(pattern: str) -> list[str]:
    return sorted(str(path.relative_to(ROOT)) for path in (ROOT / "csrc").glob(pattern))


def load(name: str, *place: str) -> ModuleType:
    """A file of csrc, which is no package."""
    spec = spec_from_file_location(name, ROOT.joinpath("csrc", *place))
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


BUILD = load("torchclip_build", "build.py")


def extension(choice: str) -> dict:
    """setup()'s arguments for torchclip._C."""
    import torch
    from torch.utils.cpp_extension import BuildExtension, CppExtension

    named = BUILD.compiler()
    BUILD.keep_objects(ROOT / "build")
    # ninja may be installed in this environment without its folder being on PATH (`.venv/bin/pip install ...`).
    os.environ["PATH"] = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")])
    # torch would run two more compilers than there are cores.
    os.environ.setdefault("MAX_JOBS", str(len(os.sched_getaffinity(0))))
    module = CppExtension(
        "torchclip._C",
        sources=[name for folder in ("", "cpu/", "step/", "triton/") for name in relative(f"{folder}*.cpp")],
        include_dirs=[str(ROOT / "csrc")],
        depends=relative("**/*.h"),
        # In every command, so that another torch in the same place has everything compiled again.
        extra_compile_args=[*COMPILE_FLAGS, f'-DTORCHCLIP_TORCH="{torch.__version__}"'],
    )
    command = load("torchclip_cuda_build", "cuda", "build.py").add_kernels(module, BuildExtension, choice)
    if choice == "auto":
        command = BUILD.or_python_parts(command, named)
    return {"ext_modules": [module], "cmdclass": {"build_ext": command}}


def compiled_parts() -> dict:
    choice = os.environ.get("TORCHCLIP_BUILD", "auto")
    if choice not in CHOICES:
        raise SystemExit(f"TORCHCLIP_BUILD={choice} is not one of {', '.join(CHOICES)}")
    if choice == "none":
        return {}
    reason = BUILD.unavailable_reason()
    if reason is None:
        return extension(choice)
    if choice != "auto":
        raise SystemExit(f"TORCHCLIP_BUILD={choice} cannot be had: {reason}")
    print(f"{BUILD.PYTHON_PARTS} {reason}", file=sys.stderr)
    return {}


setup(**compiled_parts())
