"""Builds torchclip._C, the compiled passes, and torchclip._torch; the metadata is in pyproject.toml.

_C includes nothing of torch and serves every torch and every Python that the package does: `pip install .`, which hides
the installed torch from the build, compiles it too. _torch reads the tensors of one torch by its own structures, which
saves host time, and is built where that torch is to be seen: `pip install --no-build-isolation .`.

TORCHCLIP_BUILD chooses, and a choice that cannot be had is an error:

    auto    (default) the compiled parts where a compiler is found that builds them, else the Python parts, and why; the
            CUDA passes where an nvcc is found that does, else without them, and why
    cpu     the CPU passes
    cuda    the CUDA passes too; csrc/cuda/build.py lists their settings
    none    the Python parts
"""

from __future__ import annotations

import os
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

CHOICES = ("auto", "cpu", "cuda", "none")
ROOT = Path(__file__).resolve().parent
FOLDERS = ("", "cpu/", "reader/", "step/", "triton/")
READS_TORCH = "csrc/reader/torch.cpp"


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


def torch_reader(choice: str) -> list[Extension]:
    """torchclip._torch, where there is a torch to compile it against."""
    found = BUILD.find_torch()
    if isinstance(found, str):
        print(f"{BUILD.PORTABLE} {found}", file=sys.stderr)
        return []
    return [
        Extension(
            "torchclip._torch",
            sources=[READS_TORCH],
            extra_compile_args=found.compile_flags,
            extra_link_args=found.link_flags,
            language="c++",
            optional=choice == "auto",  # without it the passes run all the same
        )
    ]


def extensions(choice: str) -> dict:
    """setup()'s arguments."""
    named = BUILD.compiler()
    core = Extension(
        "torchclip._C",
        sources=[name for folder in FOLDERS for name in relative(f"{folder}*.cpp") if name != READS_TORCH],
        extra_compile_args=[BUILD.LIMITED_API],
        py_limited_api=True,
        language="c++",
    )
    command = load("torchclip_cuda_build", "cuda", "build.py").add_kernels(core, BUILD.build_command(build_ext), choice)
    if choice == "auto":
        command = BUILD.or_python_parts(command, named)
    others = torch_reader(choice)
    arguments = {"ext_modules": [core, *others], "cmdclass": {"build_ext": command}}
    if not others:
        arguments["options"] = {"bdist_wheel": {"py_limited_api": "cp310"}}
    return arguments


def compiled_parts() -> dict:
    choice = os.environ.get("TORCHCLIP_BUILD", "auto")
    if choice not in CHOICES:
        raise SystemExit(f"TORCHCLIP_BUILD={choice} is not one of {', '.join(CHOICES)}")
    if choice == "none":
        return {}
    reason = BUILD.unavailable_reason()
    if reason is None:
        return extensions(choice)
    if choice != "auto":
        raise SystemExit(f"TORCHCLIP_BUILD={choice} cannot be had: {reason}")
    print(f"{BUILD.PYTHON_PARTS} {reason}", file=sys.stderr)
    return {}


setup(**compiled_parts())
