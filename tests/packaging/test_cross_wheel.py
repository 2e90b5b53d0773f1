"""The wheel for aarch64: when none is built, what the compiler is lent, and what is looked at in the result."""

from __future__ import annotations

import platform
import struct
import subprocess
import sysconfig
import zipfile
from pathlib import Path
from typing import Any

import pytest

import cross_wheel


def made_wheel(path: Path, machine: int) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(cross_wheel.CORE, b"\x7fELF".ljust(18, b"\0") + struct.pack("<H", machine) + bytes(44))
    return path


def test_without_a_cross_compiler_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setenv("PATH", "/nowhere")
    assert "apt-get install g++-aarch64-linux-gnu" in str(cross_wheel.reason_against())


def test_on_such_a_machine_there_is_nothing_to_cross(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert "this machine is one" in str(cross_wheel.reason_against())


def test_debians_header_of_this_machine_stands_in(tmp_path: Path) -> None:
    version = f"python{sysconfig.get_python_version()}"
    own = Path("/usr/include", sysconfig.get_config_var("MULTIARCH") or "", version, "pyconfig.h")
    lent = cross_wheel.headers(tmp_path) / "aarch64-linux-gnu" / version / "pyconfig.h"
    assert lent.is_file() == own.is_file() and (not own.is_file() or lent.read_bytes() == own.read_bytes())


@pytest.mark.parametrize("machine", [183, 62])
def test_a_core_for_another_machine_is_refused(machine: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """62 is x86-64: what a build that overlooked the compiler would put under the other name."""
    seen: dict[str, Any] = {}

    def run(command: list[Any], env: dict[str, str], check: bool) -> None:
        seen.update(env)
        made_wheel(tmp_path / "torchclip-1-cp310-abi3-linux_aarch64.whl", machine)

    monkeypatch.setattr(subprocess, "run", run)
    if machine == cross_wheel.AARCH64:
        assert cross_wheel.build(tmp_path).name.endswith("_aarch64.whl")
    else:
        with pytest.raises(RuntimeError, match="machine 62"):
            cross_wheel.build(tmp_path)
    assert seen["CXX"] == cross_wheel.COMPILER and seen["TORCHCLIP_BUILD"] == "cpu"
