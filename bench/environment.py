"""What a number depends on besides the code: versions, processor, threads, backend, free memory."""

import os
import platform
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn import Parameter

import torchclip


@dataclass(frozen=True)
class Environment:
    """The machine and the software that a run was made with."""

    python: str
    torch: str
    torchclip: str
    backend: str  # the one torchclip chooses here by itself
    cpu: str
    cores: int
    threads: int
    system: str


def _first_field(path: Path, name: str) -> str | None:
    if not path.is_file():
        return None
    for line in path.read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return None


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # Linux; elsewhere a process may use them all
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def describe_environment() -> Environment:
    return Environment(
        python=platform.python_version(),
        torch=torch.__version__,
        torchclip=torchclip.__version__,
        backend=torchclip.SGD([Parameter(torch.zeros(1))], lr=0.1).backend,
        cpu=_first_field(Path("/proc/cpuinfo"), "model name") or platform.processor() or platform.machine(),
        cores=_usable_cores(),
        threads=torch.get_num_threads(),
        system=platform.platform(),
    )


def available_bytes() -> int | None:
    """Memory that can be had without swapping, or None where the system does not say."""
    field = _first_field(Path("/proc/meminfo"), "MemAvailable")
    return None if field is None else int(field.split()[0]) * 1024
