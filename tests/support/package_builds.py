"""Builds of the package from a copy of its sources, in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from places import ROOT

BUILD = "import sys, setuptools.build_meta as backend; print(getattr(backend, sys.argv[1])(sys.argv[2]))"
COPIED = ("csrc", "kernels", "recipes", "tests", "bench", "docs", "torchclip", ".ci")


def files(folder: Path) -> set[str]:
    """The sources under a folder of the repository, links followed, relative to the repository."""
    paths = (Path(parent, name) for parent, _, names in os.walk(folder, followlinks=True) for name in names)
    found = {str(path.relative_to(ROOT)) for path in paths if "__pycache__" not in path.parts and path.suffix != ".so"}
    return {name for name in found if not name.startswith("docs/reference/")}  # which `make site` writes


def run(*command: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in command], env={**os.environ, **environment}, cwd=cwd, capture_output=True, text=True
    )


def python(*arguments: object, cwd: Path, **environment: str) -> str:
    finished = run(sys.executable, *arguments, cwd=cwd, **environment)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


def build(tree: Path, hook: str, out: Path) -> Path:
    """What a PEP 517 hook builds of the Python parts."""
    out.mkdir(exist_ok=True)
    return out / python("-c", BUILD, hook, out, cwd=tree, TORCHCLIP_BUILD="none").splitlines()[-1]


def wheel_build(
    tree: Path, out: Path, choice: str, *options: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    return run(
        sys.executable, *options, "-c", BUILD, "build_wheel", out, cwd=tree, TORCHCLIP_BUILD=choice, **environment
    )
