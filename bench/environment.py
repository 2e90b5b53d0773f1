"""What a number depends on besides the code: versions, processor, threads, backend, free memory."""

import os
import platform
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn import Parameter

import torchclip
from torchclip.backends import native


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
    gpu: str | None = None  # and the CUDA version of torch and of the kernels; None for a run on the CPU


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


def _gpu(device: torch.device) -> str | None:
    if device.type != "cuda":
        return None
    build = getattr(native.NATIVE, "build", "no compiled extension")
    return f"{torch.cuda.get_device_name(device)}, torch for CUDA {torch.version.cuda}, {build}"


def describe_environment(device: torch.device) -> Environment:
    return Environment(
        python=platform.python_version(),
        torch=torch.__version__,
        torchclip=torchclip.__version__,
        backend=torchclip.SGD([Parameter(torch.zeros(1, device=device))], lr=0.1).backend,
        cpu=_first_field(Path("/proc/cpuinfo"), "model name") or platform.processor() or platform.machine(),
        cores=_usable_cores(),
        threads=torch.get_num_threads(),
        system=platform.platform(),
        gpu=_gpu(device),
    )


def available_bytes(device: torch.device) -> int | None:
    """Memory that can be had without swapping, or None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    field = _first_field(Path("/proc/meminfo"), "MemAvailable")
    return None if field is None else int(field.split()[0]) * 1024
