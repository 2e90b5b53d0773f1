"""The CUDA part of the build: finds a CUDA compiler, and compiles the .cu files with it.

setup.py runs it. The kernels include no torch header and the CUDA runtime is linked statically, so neither torch's own
CUDA version nor whether it has one matters here. Settings, all optional:

    CUDACXX               the nvcc to use; else CUDA_HOME, CUDA_PATH, PATH and /usr/local/cuda are searched
    TORCHCLIP_CUDA_ARCHS  compute capabilities; by default those of "80;90;100;120" that the nvcc knows. The newest goes
                          in as PTX too, for later GPUs
    MAX_JOBS              how many compilers run at once
    NVCC_APPEND_FLAGS     nvcc's own: options that are added to every compilation
"""

from __future__ import annotations

import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent.parent
BUILD = SimpleNamespace(**runpy.run_path(str(ROOT / "csrc" / "build.py")))
"""How the rest is compiled: csrc is no package."""

# C++20 needs 12.0, and 32,764 bytes of kernel parameters, which the tables of a step ride in, need 12.1.
OLDEST_CUDA = (12, 1)
DEFAULT_ARCHITECTURES = "80;90;100;120"
COMPILE_FLAGS = ["-O3", "-std=c++20", "-Xcompiler", "-fPIC,-fvisibility=hidden"]

CPU_ONLY = "torchclip: the CPU passes only, without those for CUDA:"


class Unavailable(Exception):
    """Why the CUDA passes cannot be built here, with the remedy."""


class Toolkit(NamedTuple):
    """A CUDA compiler, what it compiles for, and the runtime that goes with it."""

    nvcc: str
    version: tuple[int, int]
    runtime: Path  # libcudart_static.a
    architectures: tuple[str, ...]  # compute capabilities without the point, ascending

    @property
    def description(self) -> str:
        """As in ``CUDA 13.0, sm_80, sm_90, compute_90``."""
        codes = [*(f"sm_{number}" for number in self.architectures), f"compute_{self.architectures[-1]}"]
        return f"CUDA {self.version[0]}.{self.version[1]}, {', '.join(codes)}"

    @property
    def target_flags(self) -> list[str]:
        newest = self.architectures[-1]
        targets = [(number, f"sm_{number}") for number in self.architectures] + [(newest, f"compute_{newest}")]
        return [f"-gencode=arch=compute_{number},code={code}" for number, code in targets]


def find_toolkit() -> Toolkit:
    """The toolkit to build with.

    Raises:
        Unavailable: when there is none, or none that will do.
        SystemExit: when TORCHCLIP_CUDA_ARCHS makes no sense.
    """
    nvcc = _find_nvcc()
    printed = _run(nvcc, "--version")
    release = re.search(r"release (\d+)\.(\d+)", printed)
    if release is None:
        raise Unavailable(f"{nvcc} --version names no release of CUDA: {printed.strip()[:200]!r}")
    version = (int(release[1]), int(release[2]))
    if version < OLDEST_CUDA:
        raise Unavailable(
            f"{nvcc} is of CUDA {version[0]}.{version[1]}, and {OLDEST_CUDA[0]}.{OLDEST_CUDA[1]} or later is needed: "
            "install a newer toolkit, or name another nvcc in CUDACXX"
        )
    return Toolkit(nvcc, version, _find_runtime(nvcc), _architectures(nvcc))


def _find_nvcc() -> str:
    named = os.environ.get("CUDACXX")
    if named is not None:
        found = shutil.which(named)
        if found is None:
            raise Unavailable(f"no nvcc was found: CUDACXX={named} is no program")
        return found
    homes = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    folders = [str(Path(home, "bin")) for home in homes]
    for path in (*folders, os.environ.get("PATH", os.defpath), "/usr/local/cuda/bin"):
        found = shutil.which("nvcc", path=path)
        if found is not None:
            return found
    raise Unavailable(
        "no nvcc was found on PATH, under CUDA_HOME or CUDA_PATH, or in /usr/local/cuda: install the CUDA toolkit, "
        "or name its nvcc in CUDACXX"
    )


def _find_runtime(nvcc: str) -> Path:
    """The static CUDA runtime. nvcc itself is asked for its folders, since the one on PATH may be a wrapper script."""
    # A dry run prints the commands, and settings such as: #$ LIBRARIES=  "-L/usr/local/cuda/lib64/stubs" "-L/usr/…".
    settings = re.findall(r"^#\$ LIBRARIES=(.*)$", _run(nvcc, "--dryrun", "-x", "cu", os.devnull), re.MULTILINE)
    folders = [Path(word[2:]) for line in settings for word in shlex.split(line) if word.startswith("-L")]
    for folder in folders:
        library = folder / "libcudart_static.a"
        if library.is_file():
            return library.resolve()
    raise Unavailable(
        f"libcudart_static.a is in none of the library folders of {nvcc} ({', '.join(map(str, folders))}): install "
        "the CUDA runtime's development files, or name another nvcc in CUDACXX"
    )


def _architectures(nvcc: str) -> tuple[str, ...]:
    setting = os.environ.get("TORCHCLIP_CUDA_ARCHS")
    if not setting:
        known = re.findall(r"^compute_(\d+)$", _run(nvcc, "--list-gpu-arch"), re.MULTILINE)
        return tuple(number for number in DEFAULT_ARCHITECTURES.split(";") if number in known)
    numbers = {word.replace(".", "") for word in re.split(r"[;,\s]+", setting) if word}
    wrong = sorted(number for number in numbers if not re.fullmatch(r"\d{2,3}", number) or int(number) < 80)
    if wrong or not numbers:
        raise SystemExit(
            f"TORCHCLIP_CUDA_ARCHS={setting} is not a list of compute capabilities of 80 or more, such as "
            f"{DEFAULT_ARCHITECTURES}"
        )
    return tuple(sorted(numbers, key=int))


def _run(*command: str) -> str:
    try:
        finished = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"{command[0]} cannot be run: {error}") from None
    if finished.returncode != 0:
        raise Unavailable(f"`{' '.join(command)}` failed: {(finished.stderr or finished.stdout).strip()[-300:]}")
    return finished.stdout + finished.stderr


def add_kernels(module: Any, build_extension: Any, choice: str) -> Any:
    """Adds the CUDA passes to a setuptools Extension where TORCHCLIP_BUILD asks for them.

    Args:
        module: the Extension; its sources, flags and libraries are added to.
        build_extension: the command class.
        choice: TORCHCLIP_BUILD; ``"auto"`` goes on without CUDA where ``"cuda"`` fails, be it that nvcc does.

    Returns:
        The command class to build with.

    Raises:
        SystemExit: when what was asked for cannot be had.
    """
    if choice == "cpu":
        return build_extension
    try:
        toolkit = find_toolkit()
    except Unavailable as error:
        if choice == "cuda":
            raise SystemExit(f"TORCHCLIP_BUILD=cuda cannot be had: {error}") from None
        print(f"{CPU_ONLY} {error}", file=sys.stderr)
        return build_extension
    without = {name: list(getattr(module, name)) for name in ("sources", "extra_compile_args", "extra_link_args")}
    module.sources += _files("*.cpp")
    module.extra_compile_args += ["-DTORCHCLIP_CUDA", f'-DTORCHCLIP_CUDA_BUILD="{toolkit.description}"']
    # Exported, the names of the static runtime would be taken from the libcudart.so that torch has loaded, which may
    # be of another version.
    module.extra_link_args += ["-Wl,--exclude-libs,libcudart_static.a", "-ldl", "-lrt", "-lpthread"]

    class WithKernels(build_extension):
        def build_extensions(self) -> None:
            try:
                module.extra_objects = compile_kernels(toolkit, Path(self.build_temp, "cuda").resolve())
            except SystemExit as error:
                if choice == "cuda":
                    raise
                print(f"{CPU_ONLY} {error}", file=sys.stderr)
                vars(module).update(without)
            super().build_extensions()

    return WithKernels


def _files(pattern: str) -> list[str]:
    return sorted(str(path.relative_to(ROOT)) for path in (ROOT / "csrc" / "cuda").glob(pattern))


def units() -> list[Any]:
    """What nvcc compiles one by one."""
    found: list[Any] = BUILD.units(sorted((ROOT / "csrc" / "cuda").glob("*.cu")))
    return found


def compile_kernels(toolkit: Toolkit, folder: Path) -> list[str]:
    """Compiles the units that have changed, or include what has; the objects and libraries to link.

    Args:
        toolkit: what to compile with.
        folder: where the objects go.

    Raises:
        SystemExit: when a file does not compile; nvcc has said why.
    """
    kernels, jobs = units(), BUILD.jobs()
    folder.mkdir(parents=True, exist_ok=True)
    # Where cores are left, one nvcc compiles for several architectures at once.
    threads = max(1, min(len(toolkit.architectures), jobs // max(1, len(kernels))))
    with ThreadPoolExecutor(jobs) as pool:
        objects = list(pool.map(lambda unit: _compile(toolkit, unit, folder, threads), kernels))
    failed = [unit.source.name for unit, path in zip(kernels, objects, strict=True) if path is None]
    if failed:
        raise SystemExit(f"{toolkit.nvcc} failed for {', '.join(failed)}: see its words above")
    return [*map(str, objects), str(toolkit.runtime)]


def _compile(toolkit: Toolkit, unit: Any, folder: Path, threads: int) -> Path | None:
    """The object of one unit, None where it does not compile."""
    target = folder / f"{unit.name}.o"
    command = [toolkit.nvcc, *COMPILE_FLAGS, *toolkit.target_flags, f"-I{ROOT / 'csrc'}"]
    command += [*unit.flags, "-c", str(unit.source), "-o", str(target)]
    recorded = f"{shlex.join(command)}\n{toolkit.description}\n{os.environ.get('NVCC_APPEND_FLAGS', '')}\n"
    made: Path | None = BUILD.compiled(target, command, [f"--threads={threads}", "-MD"], recorded)
    return made
