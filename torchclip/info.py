"""``python -m torchclip.info``: versions, the extension, the backends, and why each missing one is missing."""

from __future__ import annotations

import argparse
import os
import platform
from importlib import import_module

import torch

import torchclip
from torchclip.backends import native
from torchclip.backends.choice import BACKENDS, choose, explain_choice, unavailable_reason

LABEL_WIDTH = 11


def _processor() -> str:
    """The processor's name; its architecture where the system does not tell."""
    try:
        with open("/proc/cpuinfo") as lines:
            name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} logical processors, torch uses {torch.get_num_threads()} threads"


def _triton() -> str:
    try:
        found: str = import_module("triton").__version__  # of whatever package brought it
    except (ImportError, AttributeError):
        return "not installed"
    return found


def _gpus() -> str:
    found = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    names = [f"{gpu.name} (sm_{gpu.major}{gpu.minor})" for gpu in found]
    return ", ".join(names) or "none that torch can use"


def _cuda() -> str:
    """The versions of CUDA that meet here."""
    versions = {"torch": torch.version.cuda or "none"}
    if native.NATIVE is not None and hasattr(native.NATIVE, "cuda_versions"):
        for name, number in zip(("driver", "kernels"), native.NATIVE.cuda_versions(), strict=True):
            versions[name] = f"{number // 1000}.{number % 1000 // 10}" if number else "none"
    return ", ".join(f"{name}: {version}" for name, version in versions.items())


def _extension() -> str:
    if native.NATIVE is None:
        return native.UNLOADED_REASON
    build = getattr(native.NATIVE, "build", "how it was built is not recorded")
    lines = [str(native.NATIVE.__file__), build, _reader(native.NATIVE.reader())]
    return f"\n{'':<{LABEL_WIDTH}}".join(lines)


def _reader(name: str) -> str:
    if name == "torch":
        return "reads tensors by torch's own structures"
    reason = native.slower_reason() or f"{native.READER} is of another build"
    return f"reads tensors by DLPack, which takes more host time: {reason}; `pip install --no-build-isolation .`"


def report() -> str:
    """What to paste into a bug report."""
    rows = {
        "torchclip": torchclip.__version__,
        "torch": torch.__version__,
        "Python": f"{platform.python_version()}, {platform.platform()}",
        "Triton": _triton(),
        "CPU": _processor(),
        "GPU": _gpus(),
        "CUDA": _cuda(),
        "extension": _extension(),
    }
    lines = [f"{label:<{LABEL_WIDTH}}{text}" for label, text in rows.items()]
    lines += ["", "backends, in the order in which they are preferred:"]
    for name in BACKENDS:
        reason = unavailable_reason(name)
        lines.append(f"  {name:<{LABEL_WIDTH}}{'available' if reason is None else 'not available: ' + reason}")
    lines += ["", "what runs where none is asked for:"]
    for device in ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]:
        parameters = [torch.empty(1, device=device)]
        lines.append(f"  on {device:<{LABEL_WIDTH - 3}}{choose(None, parameters)}: {explain_choice(parameters)}")
    return "\n".join(lines)


if __name__ == "__main__":
    argparse.ArgumentParser("python -m torchclip.info", description="what to paste into a bug report").parse_args()
    print(report())
