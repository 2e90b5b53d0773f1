"""What a number depends on: versions, processor, threads, backend, free memory, and the commit of the code."""

import hashlib
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import torch
from torch.nn import Parameter

import torchclip
from torchclip.backends import native

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
