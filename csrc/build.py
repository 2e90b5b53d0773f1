"""What setup.py asks before it compiles, and what becomes of a build that fails."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
import sysconfig
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
OLDEST_TORCH = (2, 11)
PYTHON_PARTS = "torchclip: the Python parts only, without compiled kernels:"


def compiler() -> str | None:
    """The C++ compiler command that torch.utils.cpp_extension will run, or None where there is none."""
    if "CXX" not in os.environ and not shutil.which("c++") and shutil.which("g++"):
        os.environ["CXX"] = "g++"
    command = os.environ.get("CXX", "c++")
    return command if shutil.which(shlex.split(command)[0]) else None


def launcher() -> list[str]:
    """What stands before a compiler's command so that nothing is compiled twice on this machine, in other clones too.

    Empty where TORCHCLIP_OBJECTS names no folder for objects; ccache, which has its own, where it is installed.
    """
    folder = os.environ.get("TORCHCLIP_OBJECTS")
    if not folder:
        return []
    if shutil.which("ccache"):
        os.environ.setdefault("CCACHE_BASEDIR", str(ROOT))  # so that the place of a clone does not matter
        os.environ.setdefault("CCACHE_NOHASHDIR", "1")
        os.environ.setdefault("CCACHE_PCH_EXTSUM", "1")  # tests/support/emulated.py says what is in its header
        os.environ.setdefault("CCACHE_SLOPPINESS", "pch_defines,time_macros,include_file_mtime,include_file_ctime")
        return ["ccache"]
    return [sys.executable, str(ROOT / "csrc" / "object_cache.py"), folder]


def keep_objects(folder: Path) -> None:
    """Has torch's build, which finds ccache by itself, use what :func:`launcher` says; ``folder`` is for a script."""
    command = launcher()
    if not command or command == ["ccache"]:
        return
    script = folder / "kept-c++"
    folder.mkdir(parents=True, exist_ok=True)
    script.write_text(f'#!/bin/sh\nexec {shlex.join([*command, *shlex.split(compiler() or "c++")])} "$@"\n')
    script.chmod(0o755)
    os.environ["CXX"] = str(script)


def unavailable_reason() -> str | None:
    """Why nothing can be compiled here, with the remedy; None where they can."""
    if not sys.platform.startswith("linux"):
        return f"the compiled parts are for Linux, and this is {sys.platform}"
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        return "the compiled parts rely on the GIL, and this Python is built without one: use one that has it"
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


def or_python_parts(build_extension: Any, named: str | None) -> Any:
    """A command class that goes on without the extension where it cannot be built, and says why; ``named`` is the
    compiler as its user knows it."""

    class OrPythonParts(build_extension):
        def run(self) -> None:
            try:
                super().run()
            except (Exception, SystemExit) as error:
                print(
                    f"{PYTHON_PARTS} {named} failed: {error}. Its own words are above; TORCHCLIP_BUILD=cpu makes "
                    "such a build an error, and CXX names another compiler",
                    file=sys.stderr,
                )
                self.extensions = []
                # Nothing compiled is in the wheel: it is for every Python.
                self.distribution.ext_modules = None
                wheel = self.distribution.command_obj.get("bdist_wheel")
                if wheel is not None:
                    wheel.root_is_pure = True

    return OrPythonParts
