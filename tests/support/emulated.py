"""The CUDA backend on the CPU: an extension module of the very ``.cu`` files, compiled against ``cuda_emulator``.

The emulator stands in for the CUDA runtime, so that tensors of the CPU are device memory to the kernels. The module is
built at its first use, in ``build/emulated``, and only what has changed is compiled again.

``TORCHCLIP_EMULATOR=plain`` runs the tests of the CUDA backend on it even where there is a GPU; ``sanitized`` does so
with kernels and host tables under AddressSanitizer and UBSan, whose runtime has to be loaded before Python's.
"""

from __future__ import annotations

import ctypes
import fcntl
import functools
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from places import ROOT, SUPPORT, TESTS
from torchclip.backends import native
from torchclip.backends.choice import unavailable_reason

EMULATOR = SUPPORT / "cuda_emulator"
FOLDER = ROOT / "build" / "emulated"
MODULE = "_C_emulated"
PROGRAMS = sorted((TESTS / "kernels").glob("cuda_*.cu"))
PROGRAMS.remove(TESTS / "kernels" / "cuda_headers.cu")  # which nvcc alone compiles
VARIANTS = ("plain", "sanitized")

BUILT = "TORCHCLIP_EMULATED"
"""In the environment of processes that a test starts: the module that is up to date, so that they need not wait for the
builds of other tests."""

REQUESTED = os.environ.get("TORCHCLIP_EMULATOR", "")
assert REQUESTED in ("", *VARIANTS), f"TORCHCLIP_EMULATOR={REQUESTED} is not one of {', '.join(VARIANTS)}"
ON_GPU = not REQUESTED and unavailable_reason("cuda") is None
"""Whether the tests of the CUDA backend run on a real device."""

# no-strict-aliasing: 16-byte accesses to arrays of other types are CUDA's usage. fp-contract: so that a processor with
# fused operations rounds as one without.
# At -O0 a file of sanitized kernels compiles in 14 s in place of 24, and runs 2.4 times as long, which is more.
FLAGS = ["-std=c++20", "-O1", "-fPIC", "-fvisibility=hidden", "-fopenmp", "-fno-strict-aliasing", "-ffp-contract=off"]
FLAGS += ["-Wall", "-Wno-unknown-pragmas", "-DTORCHCLIP_CUDA", "-DTORCHCLIP_CUDA_EMULATOR=1"]
FLAGS += [f"-I{folder}" for folder in (EMULATOR / "include", ROOT / "csrc", TESTS / "kernels")]
SANITIZERS = ["-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
# Without what AddressSanitizer finds too, and with calls of its checks: inlined, they take g++ minutes for a file.
SANITIZERS += ["-fno-sanitize=vptr,null,object-size,pointer-overflow"]
SANITIZERS += ["--param asan-instrumentation-with-call-threshold=0"]


def device_of(backend: str) -> torch.device:
    """Where the parameters of a test of this backend lie: on a GPU only where the backend runs on one."""
    return torch.device("cuda" if backend in ("cuda", "triton") and ON_GPU else "cpu")


def _ninja() -> str | None:
    return shutil.which("ninja", path=os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")]))


def unbuilt_reason() -> str | None:
    """Why the emulated module cannot be built here; None where it can."""
    if not sys.platform.startswith("linux"):
        return f"the emulator of CUDA is for Linux, and this is {sys.platform}"
    if shutil.which("g++") is None:
        return "no g++ on PATH, which compiles the emulated kernels"
    if _ninja() is None:
        return "no ninja, which builds the emulated module: `pip install ninja`"
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        return f"Python.h is not in {sysconfig.get_path('include')}: install Python's headers (python3-dev)"
    return None


# The build.


@functools.cache
def build_script(*place: str) -> ModuleType:
    """A Python file of ``csrc``, which is no package."""
    spec = importlib.util.spec_from_file_location("torchclip_" + "_".join(place), ROOT.joinpath("csrc", *place))
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


@functools.cache
def _knows_of_cuda(path: Path) -> bool:
    """Whether a file, or one that it includes, is one of csrc/cuda or asks for its macros: what it becomes here is then
    another thing than in the extension."""
    text = path.read_text()
    if path.parent.name == "cuda" or "TORCHCLIP_CUDA" in text:
        return True
    included = (path.parent / name for name in re.findall(r'^#include "(.*)"', text, re.MULTILINE))
    return any(_knows_of_cuda(each.resolve()) for each in included if each.exists())


def _rules() -> list[str]:
    build = build_script("build.py")
    compile_ = f"{shlex.join(build.launcher())} g++ $flags -MMD -MF $out.d -c $in -o $out"
    rules = {
        "compile": compile_,
        "kernels": compile_.replace("-c $in", "-x c++ -c $in"),
        # As torchclip._C is compiled, and where: objects of both that know nothing of CUDA are then one in a cache.
        "common": f"{shlex.join(build.command([build.LIMITED_API]))} $more -c $in -o $out -MMD -MF $out.d",
    }
    limited = f"{build.LIMITED_API} -isystem{sysconfig.get_path('include')}"
    lines = [
        f"builddir = {_within(FOLDER)}",
        f"flags_plain = {' '.join(FLAGS)} {limited}",
        f"flags_sanitized = $flags_plain {' '.join(SANITIZERS)}",
    ]
    for name, command in rules.items():
        lines += [f"rule {name}", f"  command = {command}", "  depfile = $out.d", "  deps = gcc"]
    # No -fopenmp here: as in setup.py, the one OpenMP runtime is torch's.
    lines += ["rule link", "  command = g++ -shared $flags $in -o $out"]
    return [*lines, "rule program", "  command = g++ -fopenmp $flags $in -o $out"]


def _build_file() -> str:
    """What ninja reads. Both variants share the code that has nothing of CUDA, with the extension if that is built: the
    sanitizers are for the rest."""
    lines = _rules()

    def compiled(rule: str, source: Path, variant: str, unit: str | None = None, more: Sequence[str] = ()) -> str:
        result = _within(FOLDER / variant / (source.parent / (unit or source.name)).relative_to(ROOT)) + ".o"
        flags = " ".join([f"$flags_{variant}", *more])
        lines.extend([f"build {result}: {rule} {source}", f"  flags = {flags}", f"  more = {' '.join(more)}"])
        return result

    csrc, units = ROOT / "csrc", build_script("cuda", "build.py").units()
    others = [csrc / "reader" / "torch.cpp"]
    sources = [
        source
        for folder in ("", "cpu", "reader", "step", "triton", "cuda")
        for source in sorted((csrc / folder).glob("*.cpp"))
        if source not in others
    ]
    host = {source: "compile" if _knows_of_cuda(source) else "common" for source in sources}
    checked = [source for source in host if source.parent.name in ("step", "cuda", "triton")]
    common = [
        compiled(host[source], source, "plain", f"{name}{source.suffix}", flags)
        for name, source, flags in build_script("build.py").units([each for each in host if each not in checked])
    ]
    for variant in VARIANTS:
        kernels = [compiled("kernels", source, variant, name, flags) for name, source, flags in units]
        own = [compiled(host[source] if variant == "plain" else "compile", source, variant) for source in checked]
        emulator = [compiled("compile", source, variant) for source in sorted(EMULATOR.glob("*.cpp"))]
        sanitizers = " -fsanitize=address,undefined" if variant == "sanitized" else ""
        module = kernels + emulator + own + common
        lines += [f"build {_within(_module(variant))}: link {' '.join(module)}", f"  flags ={sanitizers}"]
        for source in PROGRAMS:
            program = [compiled("kernels", source, variant), *kernels, *emulator]
            target = _within(FOLDER / variant / source.stem)
            lines += [f"build {target}: program {' '.join(program)}", f"  flags ={sanitizers}"]
    return "\n".join(lines) + "\n"


def _within(path: Path) -> str:
    """A file as ninja names it, which runs where the repository lies."""
    return str(path.relative_to(ROOT))


def _module(variant: str) -> Path:
    return FOLDER / variant / f"{MODULE}.so"


def _build(targets: Sequence[Path]) -> None:
    """Brings files of the build folder up to date.

    Raises:
        RuntimeError: with the compiler's words.
    """
    FOLDER.mkdir(parents=True, exist_ok=True)
    with open(FOLDER / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of the processes that run tests at the same time
        path, text = FOLDER / "build.ninja", _build_file()
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
        names = [_within(target) for target in targets]
        command = [str(_ninja()), "-f", str(path), "-j", str(len(os.sched_getaffinity(0))), *names]
        # Without the sanitizers' runtime, which is for the tests and not for the compiler.
        environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
        result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, cwd=ROOT)
    if result.returncode != 0:
        raise RuntimeError(f"{', '.join(names)} could not be built:\n{result.stdout[-8000:]}{result.stderr}")


def built(variant: str) -> Path:
    """The module's file, up to date.

    Raises:
        RuntimeError: with the compiler's words.
    """
    _build([_module(variant)])
    return _module(variant)


def built_programs(variant: str) -> dict[str, Path]:
    """The programs that compare kernels with plain loops, up to date, by the names of their sources.

    Raises:
        RuntimeError: with the compiler's words.
    """
    programs = {source.stem: FOLDER / variant / source.stem for source in PROGRAMS}
    _build(list(programs.values()))
    return programs


@functools.cache
def _attempt() -> ModuleType | RuntimeError:
    variant, path = REQUESTED or "plain", Path(os.environ.get(BUILT, ""))
    if path.parent != FOLDER / variant:
        try:
            path = built(variant)
        except RuntimeError as error:
            return error
        os.environ[BUILT] = str(path)
    spec = importlib.util.spec_from_file_location(MODULE, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    native.use_reader(module)
    return module


def load() -> ModuleType:
    """The emulated module, beside ``torchclip._C``; one attempt at building it is made for all tests.

    Raises:
        RuntimeError: with the compiler's words.
    """
    result = _attempt()
    if isinstance(result, RuntimeError):
        raise result
    return result


def build_ahead() -> subprocess.Popen[bytes]:
    """Starts the build of everything that tests may ask for later, which takes minutes, on the core that they leave
    idle. Whoever needs a file waits for it."""
    return subprocess.Popen(
        ["nice", sys.executable, __file__],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
        start_new_session=True,
    )


# What tests set and read.

ORDERS = {"ascending": (0, 0), "descending": (1, 0), "shuffled": (2, 1)}
"""In which threads and blocks run, and the seed."""

# The kinds of calls that can be made to fail, in the order of emulator/control.h.
LAUNCH, ALLOCATE, COPY, SYNCHRONIZE, COUNT_DEVICES, SET_DEVICE, DEVICE_ATTRIBUTE, KERNEL_ATTRIBUTES = range(8)


class Emulator:
    """``emulator/control.h``, as it is exported by the emulated module."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        for name in ("launches", "wide_reads", "allocations", "launches_on", "end_capture"):
            getattr(library, f"torchclip_emulator_{name}").restype = ctypes.c_int64
        library.torchclip_emulator_report.restype = ctypes.c_char_p

    def __getattr__(self, name: str) -> Any:
        return getattr(self._library, f"torchclip_emulator_{name}")

    def reset(self) -> None:
        """Everything as it was at first; few blocks, since every thread of them costs time, and results do not depend
        on their number."""
        self.end_capture()
        self.set_order(*ORDERS["ascending"])
        for kind in range(KERNEL_ATTRIBUTES + 1):
            self.fail(kind, 0, 0)
        self.set_device(3, 1)
        self.set_cache_bytes(1 << 20)
        self.set_driver_version(13000)
        self.set_capability(9, 0)
        self.set_devices(1)

    def set_order(self, order: int, seed: int) -> None:
        """As the values of ``ORDERS``."""
        self._library.torchclip_emulator_set_order(order, ctypes.c_uint64(seed))

    def set_cache_bytes(self, count: int) -> None:
        """The size of the second-level cache."""
        self._library.torchclip_emulator_set_cache_bytes(ctypes.c_int64(count))

    def place(self, tensor: Tensor, device: int) -> None:
        """Declares that the tensor lies on a device."""
        self._library.torchclip_emulator_place(ctypes.c_void_p(tensor.data_ptr()), device)


@functools.cache
def emulator() -> Emulator:
    """The controls of the emulated module."""
    return Emulator(ctypes.CDLL(load().__file__))


@contextmanager
def emulated() -> Iterator[Emulator]:
    """Meanwhile the emulated module is the extension, and ``backend="cuda"`` serves the CPU's tensors."""
    module, controls = load(), emulator()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "NATIVE", module)
        controls.reset()
        yield controls
        controls.reset()


if __name__ == "__main__":
    for each in VARIANTS:
        built_programs(each)
        built(each)
