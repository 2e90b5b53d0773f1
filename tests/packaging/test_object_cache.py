"""Objects that are kept by their content: made once, wherever the clone lies, and anew where anything differs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from places import CSRC

COMPILER = """#!/bin/sh
case "$*" in *--version*) echo "cc $VERSION"; exit 0 ;; esac
echo compiled >> "$LOG"
exec c++ "$@"
"""

pytestmark = pytest.mark.skipif(shutil.which("c++") is None, reason="no c++ on PATH")


class Clones:
    """Copies of a small repository, a compiler that counts its runs, and the folder of objects."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder, folder / "log"
        self.compiler = folder / "compiler"
        self.compiler.write_text(COMPILER)
        self.compiler.chmod(0o755)

    def clone(self, name: str, number: int = 1) -> Path:
        csrc = self.folder / name / "csrc"
        csrc.mkdir(parents=True)
        shutil.copy(CSRC / "object_cache.py", csrc)
        (csrc / "number.h").write_text(f"inline int number() {{ return {number}; }}\n")
        (csrc / "code.cpp").write_text('#include "number.h"\nint code() { return number() + ADDED; }\n')
        return csrc

    def compile(self, csrc: Path, added: int = 0, version: int = 1) -> tuple[int, bytes]:
        """How often the compiler has run so far, and the object."""
        target = csrc / "code.o"
        target.unlink(missing_ok=True)
        own = [str(self.compiler), f"-DADDED={added}", f"-I{csrc}", "-MMD", "-MF", str(csrc / "code.d")]
        own += ["-c", "-c", str(csrc / "code.cpp"), "-o", str(target)]
        launcher = [sys.executable, str(csrc / "object_cache.py"), str(self.folder / "objects")]
        environment = {**os.environ, "LOG": str(self.log), "VERSION": str(version)}
        subprocess.run([*launcher, *own], check=True, env=environment, cwd=csrc.parent)
        assert "number.h" in (csrc / "code.d").read_text()
        return len(self.log.read_text().split()), target.read_bytes()


def test_an_object_is_made_once(tmp_path: Path) -> None:
    clones = Clones(tmp_path)
    first, other = clones.clone("first"), clones.clone("other")
    runs, made = clones.compile(first)
    assert runs == 1
    assert clones.compile(first) == (1, made)
    assert clones.compile(other) == (1, made)


def test_an_object_of_anything_else_is_made_anew(tmp_path: Path) -> None:
    clones = Clones(tmp_path)
    first = clones.clone("first")
    _, made = clones.compile(first)
    runs, changed = clones.compile(clones.clone("header", number=2))
    assert runs == 2 and changed != made
    runs, changed = clones.compile(first, added=1)
    assert runs == 3 and changed != made
    assert clones.compile(first, version=2)[0] == 4
    assert clones.compile(first) == (4, made)


def test_a_failure_is_the_compilers(tmp_path: Path) -> None:
    clones = Clones(tmp_path)
    csrc = clones.clone("first")
    (csrc / "code.cpp").write_text("no code\n")
    with pytest.raises(subprocess.CalledProcessError):
        clones.compile(csrc)
    assert not (csrc / "code.o").exists()


def test_a_folder_that_cannot_be_written_fails_no_build(tmp_path: Path) -> None:
    (tmp_path / "objects").write_text("a file\n")
    clones = Clones(tmp_path)
    csrc = clones.clone("first")
    assert [clones.compile(csrc)[0] for _ in range(2)] == [1, 2]
