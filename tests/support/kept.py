"""What compilers say of our sources, kept beside the objects of builds: another clone asks them nothing anew."""

from __future__ import annotations

import functools
import gzip
import hashlib
import json
import os
import shlex
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from places import CSRC, ROOT, TESTS

SUFFIXES = (".h", ".cuh", ".cpp", ".cu")


def _sources() -> str:
    """A hash of every file that a compiler may read."""
    files = [path for folder in (CSRC, TESTS) for path in folder.rglob("*.*") if path.suffix in SUFFIXES]
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in sorted(files))).hexdigest()


@functools.cache
def _version(compiler: str) -> str:
    return subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout


def kept(command: Sequence[str], make: Callable[[], Sequence[str]]) -> list[str]:
    """What ``make`` returned for this command of a compiler, made again where the compiler or any source has changed.

    Args:
        command: the compiler first, without files that are of one clone or one run.
        make: the texts to keep; what it raises is kept by nobody.
    """
    folder = os.environ.get("TORCHCLIP_OBJECTS")
    if not folder:
        return list(make())
    words, sources = shlex.join(command[1:]).replace(str(ROOT), "."), _sources()
    key = hashlib.sha256("\0".join([_version(command[0]), words, sources]).encode()).hexdigest()
    path = Path(folder, "said", f"{key}.json.gz")
    if path.exists():
        return [str(text) for text in json.loads(gzip.decompress(path.read_bytes()))]
    made = list(make())
    if _sources() == sources:  # which someone may have written meanwhile
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(f".{os.getpid()}")
        unfinished.write_bytes(gzip.compress(json.dumps(made).encode(), 1))
        unfinished.replace(path)
    return made
