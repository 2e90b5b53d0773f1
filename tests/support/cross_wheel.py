"""``cross_wheel.py FOLDER``: builds the wheel for aarch64 in FOLDER, with the CPU's kernels, by a cross compiler.

Without g++-aarch64-linux-gnu, or on an aarch64 itself, it says so and builds nothing. What it builds was never run.
"""

from __future__ import annotations

import os
import platform
import shutil
import struct
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COMPILER, AARCH64 = "aarch64-linux-gnu-g++", 183  # EM_AARCH64 of elf.h
CORE = "torchclip/_C.abi3.so"


def reason_against() -> str | None:
    """Why nothing is built, in words."""
    if platform.machine() == "aarch64":
        return "this machine is one: the wheel that was built is for it"
    if shutil.which(COMPILER) is None:
        return f"there is no {COMPILER}: apt-get install g++-aarch64-linux-gnu"
    return None


def headers(folder: Path) -> Path:
    """What the cross compiler looks for beside this Python's headers, which are the same on every machine but one.

    That is pyconfig.h, which Debian has in a folder for each machine: this machine's stands in. Both are 64-bit, little
    endian Linux, and of what else it says the stable interface asks nothing.
    """
    version = f"python{sysconfig.get_python_version()}"
    own = Path("/usr/include", sysconfig.get_config_var("MULTIARCH") or "", version, "pyconfig.h")
    if own.is_file():
        place = folder / "aarch64-linux-gnu" / version
        place.mkdir(parents=True)
        shutil.copy(own, place)
    return folder


def machine_of(wheel: Path) -> int:
    """e_machine of the compiled core's ELF header. Raises KeyError for a wheel without one."""
    with zipfile.ZipFile(wheel) as archive:
        return int(struct.unpack_from("<H", archive.read(CORE), 18)[0])


def build(out: Path) -> Path:
    """The wheel. Raises CalledProcessError where it does not compile, RuntimeError where it is for another machine."""
    with tempfile.TemporaryDirectory() as made:
        environment = {
            **os.environ,
            "TORCHCLIP_BUILD": "cpu",
            "CXX": COMPILER,
            "CPATH": str(headers(Path(made))),
            "_PYTHON_HOST_PLATFORM": "linux-aarch64",  # what sysconfig, and with it the wheel's name, goes by
        }
        command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", out, ROOT]
        subprocess.run(command, env=environment, check=True)
    (wheel,) = out.glob("*_aarch64.whl")
    if machine_of(wheel) != AARCH64:
        raise RuntimeError(
            f"{wheel} has a core for machine {machine_of(wheel)} of elf.h, and {AARCH64} was to be built"
        )
    return wheel


if __name__ == "__main__":
    reason = reason_against()
    print(f"no wheel for aarch64: {reason}" if reason else f"{build(Path(sys.argv[1]))}: compiled, not run")
