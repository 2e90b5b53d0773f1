"""A compiler that keeps what it has compiled: ``object_cache.py FOLDER COMPILER ARGUMENT...``, for want of ccache.

An object is known by the compiler's version, its arguments, and the text of every file of this repository that goes
into it, wherever the repository lies. Other files are those of the system and of torch, whose version stands in the
arguments. A command that compiles nothing, or more than one file, is run as it is.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOREIGN = (ROOT / "build", ROOT / ".venv")
"""Within the repository, and not of it."""


def value_of(option: str, arguments: Sequence[str]) -> str | None:
    """What stands behind the last option of this name; None where it does not stand there."""
    places = [place for place, argument in enumerate(arguments[:-1]) if argument == option]
    return arguments[places[-1] + 1] if places else None


def hash_of(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


def key_of(compiler: str, arguments: Sequence[str], written: Sequence[str]) -> str:
    """Of a command, whatever files it writes."""
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout
    named = [argument for argument in arguments if argument not in written]
    if "c++-header" not in arguments:  # which remembers where the headers lie that it is made of
        named = [argument.replace(str(ROOT), ".") for argument in named]
    folder = Path.cwd().resolve()  # which relative paths start from
    return hash_of(version, os.path.relpath(folder, ROOT), *named)


def own_files(makefile: Path) -> list[str]:
    """The files of the repository among those that a rule for make depends on, relative to it."""
    words = makefile.read_text().replace("\\\n", " ").partition(":")[2].split()
    paths = {Path(os.path.abspath(word)) for word in words}
    own = [path for path in paths if ROOT in path.parents and not any(each in path.parents for each in FOREIGN)]
    return sorted(str(path.relative_to(ROOT)) for path in own)


def state_of(files: Sequence[str]) -> str | None:
    """A hash of the text of files; None where one is missing."""
    try:
        return hash_of(*(hashlib.sha256((ROOT / name).read_bytes()).hexdigest() for name in files))
    except OSError:
        return None


def put(source: Path, target: Path) -> None:
    """Copies a file so that nobody sees a part of it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as file:
        pass
    shutil.copyfile(source, file.name)
    os.chmod(file.name, 0o644)
    os.replace(file.name, target)


def compile_once(folder: Path, compiler: str, arguments: list[str]) -> int:
    """Runs the command, or copies what it wrote before. Returns its exit status."""
    source, target, rule = (value_of(option, arguments) for option in ("-c", "-o", "-MF"))
    if source is None or target is None or rule is None:
        return subprocess.run([compiler, *arguments]).returncode
    entry = folder / key_of(compiler, arguments, (target, rule))
    known = entry / "files.json"
    if known.exists():
        for files in json.loads(known.read_text()):
            kept = entry / f"{state_of(files)}.o"
            if kept.exists() and kept.with_suffix(".d").exists():
                put(kept, Path(target))
                rest = " ".join(str(ROOT / name) for name in files)
                Path(rule).write_text(f"{target}: {rest}\n")
                return 0
    status = subprocess.run([compiler, *arguments]).returncode
    if status == 0 and Path(rule).exists():
        with contextlib.suppress(OSError):  # a folder that cannot be written costs time, and no build
            keep(entry, Path(target), Path(rule))
    return status


def keep(entry: Path, target: Path, rule: Path) -> None:
    """Keeps an object, and which files it was made of."""
    files, known = own_files(rule), entry / "files.json"
    kept = entry / f"{state_of(files)}.o"
    put(target, kept)
    put(rule, kept.with_suffix(".d"))
    before = json.loads(known.read_text()) if known.exists() else []
    with tempfile.NamedTemporaryFile("w", delete=False) as file:
        json.dump([files, *(other for other in before if other != files)], file)
    put(Path(file.name), known)
    os.unlink(file.name)


if __name__ == "__main__":
    sys.exit(compile_once(Path(sys.argv[1]), sys.argv[2], sys.argv[3:]))
