"""What a tool says of our sources, kept beside the objects of builds: another clone asks it nothing anew."""

from __future__ import annotations

import functools
import gzip
import hashlib
import inspect
import json
import os
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from places import CSRC, ROOT, TESTS

# What changes what a compiler does, and stands in no command.
SETTINGS = (
    "CPATH",
    "C_INCLUDE_PATH",
    "CPLUS_INCLUDE_PATH",
    "GCC_EXEC_PREFIX",
    "NVCC_APPEND_FLAGS",
    "NVCC_PREPEND_FLAGS",
)
SETTINGS += ("NVCC_CCBIN", "CUDA_HOME")


def sources() -> list[Path]:
    """Every file that a compiler may read."""
    kinds = (".h", ".cuh", ".cpp", ".cu")
    return [path for folder in (CSRC, TESTS) for path in folder.rglob("*.*") if path.suffix in kinds]


def kept(words: Sequence[str], files: Callable[[], Iterable[Path]], make: Callable[[], Sequence[str]]) -> list[str]:
    """What ``make`` returned for these words, made again where they or a file have changed.

    Args:
        words: the command with its tools' versions; without files that are of one clone or one run.
        files: what goes into it.
        make: the texts to keep; what it raises is kept by nobody.
    """
    folder = os.environ.get("TORCHCLIP_OBJECTS")
    if not folder:
        return list(make())
    key = _key(words, files())
    path = Path(folder, "said", f"{key}.json.gz")
    if path.exists():
        return [str(text) for text in json.loads(gzip.decompress(path.read_bytes()))]
    made = list(make())
    if _key(words, files()) == key:  # which someone may have written meanwhile
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(f".{os.getpid()}")
        unfinished.write_bytes(gzip.compress(json.dumps(made).encode(), 1))
        unfinished.replace(path)
    return made


def said(command: Sequence[str], make: Callable[[], Sequence[str]], *tools: str) -> list[str]:
    """The same of compilers: the first word, those that it may start, and ``tools``. What ``make`` does counts, too."""
    versions = [version_of(tool) for tool in (command[0], "g++", *tools)]
    words = [word.replace(str(ROOT), ".") for word in command]
    settings = [f"{name}={os.environ.get(name)}" for name in SETTINGS]
    return kept([*versions, *settings, *words, inspect.getsource(make)], sources, make)


@functools.cache
def version_of(tool: str) -> str:
    """What it says of itself; nothing where it is not there."""
    try:
        return subprocess.run([tool, "--version"], capture_output=True, text=True, check=True).stdout
    except OSError:
        return ""


def _key(words: Sequence[str], files: Iterable[Path]) -> str:
    found = hashlib.sha256()
    for part in _parts(words, files):
        found.update(b"%d\0" % len(part) + part)
    return found.hexdigest()


def _parts(words: Sequence[str], files: Iterable[Path]) -> Iterator[bytes]:
    yield from (word.encode() for word in words)
    for path in sorted(files):
        yield str(path.relative_to(ROOT)).encode()
        yield path.read_bytes()
