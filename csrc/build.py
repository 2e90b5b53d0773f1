"""How the C++ of csrc is compiled: the compiler, its flags, and each object anew only where something has changed."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
OLDEST_TORCH = (2, 11)
PYTHON_PARTS = "torchclip: the Python parts only, without compiled kernels:"
PORTABLE = "torchclip: without torchclip._torch, which saves host time with one torch:"

# errno and floating-point traps are never looked at here, and honouring them keeps sqrt and min from being vectorised.
COMPILE_FLAGS = ["-O3", "-std=c++20", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-fvisibility=hidden"]
COMPILE_FLAGS += ["-DNDEBUG", "-Wall", f"-I{ROOT / 'csrc'}", f"-isystem{sysconfig.get_path('include')}"]
# No -fopenmp: the link would add the compiler's runtime to the one that torch brings, two thread pools in one process.
# csrc/cpu/parallel.h calls torch's copy, which is loaded first, by name.
LIMITED_API = "-DPy_LIMITED_API=0x030A0000"
"""Python's stable interface as of 3.10, which no binary outgrows."""


def compiler() -> str | None:
    """The C++ compiler command, or None where there is none."""
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
        os.environ.setdefault("CCACHE_SLOPPINESS", "time_macros,include_file_mtime,include_file_ctime")
        return ["ccache"]
    return [sys.executable, str(ROOT / "csrc" / "object_cache.py"), folder]


def command(flags: Sequence[str]) -> list[str]:
    """What compiles a file of csrc, without the names of files."""
    return [*launcher(), *shlex.split(compiler() or "c++"), *COMPILE_FLAGS, *flags]


def jobs() -> int:
    """How many compilers run at once: MAX_JOBS, or one for each core."""
    return int(os.environ.get("MAX_JOBS") or len(os.sched_getaffinity(0)))


class Torch(NamedTuple):
    """A torch that the build can see, found without importing it."""

    version: str
    folder: Path

    @property
    def compile_flags(self) -> list[str]:
        # The version in every command, so that another torch in the same place has everything compiled again.
        return [f"-isystem{self.folder / 'include'}", f'-DTORCHCLIP_TORCH="{self.version}"']

    @property
    def link_flags(self) -> list[str]:
        return [f"-L{self.folder / 'lib'}", "-ltorch_python", "-ltorch_cpu", "-lc10"]


def find_torch() -> Torch | str:
    """torch's headers, or in words why there are none to compile against."""
    spec = find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        return "the build sees no torch; `pip install --no-build-isolation .` shows it the one that is installed"
    folder = Path(next(iter(spec.submodule_search_locations)))
    found = re.search(r"^__version__ = '(.*)'$", (folder / "version.py").read_text(), re.MULTILINE)
    if found is None:
        return f"{folder / 'version.py'} names no version"
    if tuple(int(number) for number in re.findall(r"\d+", found[1])[:2]) < OLDEST_TORCH:
        return f"torch {found[1]} is installed, and {'.'.join(map(str, OLDEST_TORCH))} or later is needed"
    return Torch(found[1], folder)


def unavailable_reason() -> str | None:
    """Why nothing can be compiled here, with the remedy; None where they can."""
    if not sys.platform.startswith("linux"):
        return f"the compiled parts are for Linux, and this is {sys.platform}"
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        return "the compiled parts rely on the GIL, and this Python is built without one: use one that has it"
    if compiler() is None:
        return "no C++ compiler was found: install g++ or clang++, or name one in CXX"
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        return f"Python.h is not in {sysconfig.get_path('include')}: install Python's headers (python3-dev)"
    return None


class Unit(NamedTuple):
    """What one compiler compiles.

    Args:
        name: of its object, without a suffix.
        source: a file of csrc.
        flags: besides those of all.
    """

    name: str
    source: Path
    flags: tuple[str, ...] = ()


def units(sources: Sequence[Path]) -> list[Unit]:
    """Each file; one whose name begins with functor once for each functor that the rules' headers name."""
    texts = "".join(path.read_text() for path in sorted((ROOT / "csrc" / "rules").glob("*.h")))
    functors = sorted(set(re.findall(r"using Functor = (\w+);", texts)))
    found = []
    for source in sources:
        if source.stem.startswith("functor"):
            found += [Unit(f"{source.stem}_{name}", source, (f"-DTORCHCLIP_FUNCTOR={name}",)) for name in functors]
        else:
            found.append(Unit(source.stem, source))
    return found


def compile_objects(sources: Sequence[str], flags: Sequence[str], folder: Path) -> list[str]:
    """Compiles the units that have changed, or include what has; their objects.

    Args:
        sources: paths relative to the repository.
        flags: besides those that every file has.
        folder: where the objects go.

    Raises:
        RuntimeError: when a file does not compile; the compiler has said why.
    """
    folder.mkdir(parents=True, exist_ok=True)
    wanted = units([ROOT / source for source in sources])
    with ThreadPoolExecutor(jobs()) as pool:
        compiled = list(pool.map(lambda unit: _compile(unit, flags, folder), wanted))
    failed = [str(unit.source.relative_to(ROOT)) for unit, target in zip(wanted, compiled, strict=True) if not target]
    if failed:
        raise RuntimeError(f"it does not compile {', '.join(failed)}")
    return [str(target) for target in compiled]


def _compile(unit: Unit, flags: Sequence[str], folder: Path) -> Path | None:
    """The object of one unit, None where it does not compile."""
    place = unit.source.relative_to(ROOT).with_name(unit.name + unit.source.suffix)
    target = folder / f"{str(place).replace('/', '.')}.o"
    words = [*command([*flags, *unit.flags]), "-c", str(unit.source), "-o", str(target)]
    return compiled(target, words, ["-MMD"], shlex.join(words))


def compiled(target: Path, words: Sequence[str], more: Sequence[str], recorded: str) -> Path | None:
    """An object, made anew where what is recorded of its command, or a file that was read for it, has changed since.

    Args:
        target: the object.
        words: the command that makes it.
        more: options that are no part of it, with the one that writes what files were read.
        recorded: the command, and whatever else the object depends on.

    Returns:
        The object; None where it does not compile.
    """
    dependencies, stamp = target.with_suffix(".d"), target.with_suffix(".command")
    if _is_current(target, dependencies, stamp, recorded):
        return target
    stamp.unlink(missing_ok=True)
    print(shlex.join(words), flush=True)
    if subprocess.run([*words, *more, "-MF", str(dependencies)], check=False, cwd=ROOT).returncode != 0:
        return None
    stamp.write_text(recorded)
    return target


def _is_current(target: Path, dependencies: Path, stamp: Path, recorded: str) -> bool:
    """Whether the object was made by this command from files that have not changed since."""
    if not (target.is_file() and dependencies.is_file() and stamp.is_file() and stamp.read_text() == recorded):
        return False
    included: Sequence[str] = dependencies.read_text().replace("\\\n", " ").split(":", 1)[1].split()
    made = target.stat().st_mtime
    return all(Path(name).is_file() and Path(name).stat().st_mtime <= made for name in included)


def build_command(build_extension: Any) -> Any:
    """setuptools' command, with the objects compiled here."""

    class WithOwnObjects(build_extension):
        def build_extension(self, extension: Any) -> None:
            from setuptools.errors import CompileError

            folder = Path(self.build_temp, extension.name).resolve()
            try:
                objects = compile_objects(extension.sources, extension.extra_compile_args, folder)
            except RuntimeError as error:
                raise CompileError(str(error)) from None
            extension.extra_objects = [*objects, *(extension.extra_objects or [])]
            extension.depends, extension.sources = extension.extra_objects, []
            super().build_extension(extension)
            if self.inplace and extension.py_limited_api:
                # Built before for one Python alone, it would be preferred by that one.
                for old in (ROOT / "torchclip").glob(f"{extension.name.rpartition('.')[2]}.cpython-*.so"):
                    old.unlink()

    return WithOwnObjects


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
                    wheel.py_limited_api = False

    return OrPythonParts
