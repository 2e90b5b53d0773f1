"""The file of a run: what its numbers depend on, its rows with their raw samples, and how it goes on after a break.

A row is a dictionary of plain values. Files hold finite numbers only: a run that produced another kind of number has
measured nothing, so it is refused when it is written and when it is read.
"""

import hashlib
import json
import math
import os
import platform
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn import Parameter

import torchclip
from bench.options import Refused
from torchclip.backends import native

VERSION = 2

Entry = Mapping[str, Any]
Found = tuple[Entry, Sequence[str]]
"""The entry of a row, and what is wrong with its results."""

ROOT = Path(__file__).resolve().parent.parent
# What a number can depend on. Results are left out: writing them must not look like a change of the code.
_MEASURED = ("bench", "csrc", "kernels", "recipes", "setup.py", "torchclip", ":(exclude)bench/results")


def _first_field(path: str, name: str) -> str | None:
    text = Path(path).read_text() if Path(path).is_file() else ""
    found = re.search(rf"^{name}\s*: *(.*)$", text, re.MULTILINE)
    return found and found[1].strip()


def describe_environment(device: torch.device) -> dict[str, Any]:
    """The machine and the software that a run is made with."""
    gpu = None
    if device.type == "cuda":
        build = getattr(native.NATIVE, "build", "no compiled extension")
        gpu = f"{torch.cuda.get_device_name(device)}, torch for CUDA {torch.version.cuda}, {build}"
    # A process may use every core where the system does not say which.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchclip": torchclip.__version__,
        "backend": torchclip.SGD([Parameter(torch.zeros(1, device=device))], lr=0.1).backend,
        "cpu": _first_field("/proc/cpuinfo", "model name") or platform.processor() or platform.machine(),
        "cores": cores,
        "threads": torch.get_num_threads(),
        "system": platform.platform(),
        "gpu": gpu,  # None for a run on the CPU
    }


def available_bytes(device: torch.device) -> float:
    """Memory that can be had without swapping; infinite where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    found = _first_field("/proc/meminfo", "MemAvailable")
    return float("inf") if found is None else int(found.split()[0]) * 1024


def _git(*arguments: str) -> str | None:
    """What git prints, or None where there is no git or no repository."""
    try:
        finished = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return finished.stdout.decode(errors="replace")


def describe_commit() -> str:
    """The commit, with a digest of what differs from it in the tree.

    TORCHCLIP_COMMIT goes before it, for a machine that was given a copy of the files; "unknown" outside a repository.
    """
    if given := os.environ.get("TORCHCLIP_COMMIT"):
        return given
    commit = _git("rev-parse", "HEAD")
    difference = _git("diff", "HEAD", "--", *_MEASURED)
    added = _git("ls-files", "--others", "--exclude-standard", "--", *_MEASURED)
    if commit is None or difference is None or added is None:
        return "unknown"
    if not difference and not added:
        return commit.strip()
    digest = hashlib.sha256(difference.encode())
    for name in added.splitlines():
        digest.update(name.encode() + (ROOT / name).read_bytes())
    return f"{commit.strip()}+{digest.hexdigest()[:12]}"


def header_of(command: str, device: torch.device, settings: Entry) -> dict[str, Any]:
    """What all rows of a file have in common."""
    return {
        "version": VERSION,
        "command": command,
        "environment": describe_environment(device),
        "commit": describe_commit(),
        "settings": dict(settings),
    }


def refuse_nonfinite(value: Any, where: str) -> None:
    """Raises `Refused` at the first number that is infinite, NaN or null in dictionaries and lists, with its place."""
    if isinstance(value, (Mapping, list, tuple)):
        for key, item in value.items() if isinstance(value, Mapping) else enumerate(value):
            refuse_nonfinite(item, where + (f".{key}" if isinstance(value, Mapping) else f"[{key}]"))
    elif value is None or (isinstance(value, float) and not math.isfinite(value)):
        raise Refused(f"{where} is {value}: measure that row again")


def read_document(path: Path, command: str | None = None) -> dict[str, Any]:
    """The document in the file; `Refused` when it is none of ours, of another version or command, or not finite."""
    try:
        document = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise Refused(f"{path} holds no results: {error}") from error
    if not isinstance(document, dict) or document.get("version") != VERSION:
        raise Refused(f"{path} holds no results of version {VERSION}: measure them again")
    if command is not None and document["command"] != command:
        raise Refused(f"{path} holds results of `{document['command']}`, expected those of `{command}`")
    refuse_nonfinite(document["rows"], f"{path}: rows")
    return document


def write_document(path: Path, document: Entry) -> None:
    """Whoever reads the file sees the old document or the new one, never half of one."""
    refuse_nonfinite(document["rows"], "rows")
    text = json.dumps(document, indent=1, allow_nan=False)
    # A list of numbers on one line: a file has tens of thousands of them.
    text = re.sub(r"\[[^\[\]{}\"]*\]", lambda match: f"[{' '.join(match[0][1:-1].split())}]", text)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".part")
    draft.write_text(text + "\n")
    draft.replace(path)


def differences(ours: Entry, theirs: Entry, parts: Sequence[str]) -> list[str]:
    """In words, what these parts of a header have otherwise than ours."""
    found = []
    for part in parts:
        here, there = ours.get(part), theirs.get(part)
        if isinstance(here, Mapping) and isinstance(there, Mapping):
            found += differences(here, there, list({**here, **there}))
        elif here != there:
            found.append(f"{part} {there} instead of {here}")
    return found


class Results:
    """The rows measured so far. Each is on disk as soon as it is there, so that an interrupted run can go on.

    Args:
        header: of this run; a file of another one is `Refused`.
        path: of the file; None keeps everything in memory.
        keys: the entries that tell one row from another.
        fresh: drop what the file holds.
    """

    def __init__(self, header: Entry, path: Path | None, keys: Sequence[str], fresh: bool = False) -> None:
        self.rows: list[Entry] = []
        self._header = json.loads(json.dumps(header))  # what the file went through
        self._path, self._keys = path, keys
        if path is not None and fresh:
            path.unlink(missing_ok=True)
        if path is None or not path.exists():
            return
        remedy = f"choose another file, or give --fresh to replace {path}"
        try:
            document = read_document(path)
        except Refused as error:
            raise Refused(f"{error}; {remedy}") from error
        if found := differences(self._header, document, list(header)):
            raise Refused(f"{path} cannot be continued, it has {', '.join(found)}: {remedy}")
        self.rows = list(document["rows"])

    def find(self, key: Sequence[object]) -> Entry | None:
        """The row with these entries, if there is one."""
        return next((row for row in self.rows if [row[name] for name in self._keys] == list(key)), None)

    def add(self, row: Entry) -> None:
        """Takes in a row and writes the file."""
        refuse_nonfinite(row, "/".join(str(row[name]) for name in self._keys))
        self.rows.append(row)
        if self._path is not None:
            write_document(self._path, {**self._header, "rows": self.rows})
