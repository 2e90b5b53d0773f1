"""Loading the compiled extension, and in words why it is not loaded.

``torchclip._C`` serves every torch. ``torchclip._torch`` reads the tensors of the torch that it was built for by its
structures, which saves host time; without it ``_C`` asks by DLPack.
"""

from __future__ import annotations

import mmap
import os
import sys
import warnings
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import torch

from torchclip.distributed import parts

NAME = "torchclip._C"
READER = "torchclip._torch"
MARK = b"torchclip._torch for torch "
"""What the version of torch that it was built for stands behind in the file: csrc/reader/torch.cpp."""

PORTABLE = os.environ.get("TORCHCLIP_READER") == "dlpack"
"""Whether tensors are read by DLPack even where ``torchclip._torch`` is there; when Python starts, for tests."""


def load() -> tuple[ModuleType | None, str]:
    """The extension, or None and why it cannot be used.

    Warns:
        RuntimeWarning: when there is one, and it cannot be used.
    """
    file = _file_of(NAME)
    reason = _unloaded_reason(file)
    if reason is None:
        try:
            module = import_module(NAME)
            use_reader(module)
            return module, ""
        except ImportError as error:
            reason = f"the compiled extension {file} does not load ({error})"
    if file is not None:
        warnings.warn(
            f"torchclip runs without its compiled passes: {reason}; build it anew with `pip install .`, or run "
            "`python -m torchclip.info`",
            RuntimeWarning,
            stacklevel=2,
        )
    return None, reason


def use_reader(module: ModuleType) -> None:
    """Has the extension read tensors in the fastest way that there is here."""
    reader = None if slower_reason() is not None else import_module(READER).reader
    try:
        module.use_reader(reader)
    except ValueError:  # of another build
        module.use_reader(None)


def _file_of(name: str) -> Path | None:
    spec = find_spec(name)
    return None if spec is None or spec.origin is None else Path(spec.origin)


def _unloaded_reason(file: Path | None) -> str | None:
    """Why the extension cannot be loaded, found out without loading it."""
    if "t" in getattr(sys, "abiflags", ""):
        return f"this Python is free-threaded, and the compiled extension {NAME} relies on the GIL: use one with a GIL"
    if file is None:
        others = sorted(path.name for path in Path(__file__).parent.parent.glob("_C.*.so"))
        found = f" for this Python ({', '.join(others)} is for another)" if others else ""
        return f"the compiled extension {NAME} is not built{found}"
    return None


def slower_reason() -> str | None:
    """Why :data:`READER` cannot be used, found out without loading it: one for another torch may crash at that."""
    if PORTABLE:
        return "TORCHCLIP_READER=dlpack was set when Python started"
    file = _file_of(READER)
    if file is None:
        return f"{READER} is not built"
    built_for = _torch_of(file)
    if built_for is None:
        return f"{file} does not say for which torch it was built"
    if _release(built_for) != _release(torch.__version__):
        return f"{file} was built for torch {built_for}, and torch {torch.__version__} is here"
    return None


def _torch_of(file: Path) -> str | None:
    """The version of torch that an extension was built for; None where it does not say."""
    with open(file, "rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
        begin = content.find(MARK)
        if begin < 0:
            return None
        begin += len(MARK)
        return content[begin : content.find(b"\0", begin)].decode()


def _release(version: str) -> str:
    """What of a version decides about compiled code: builds of a release for the CPU and for a CUDA are alike, and of
    what is no release every commit is different."""
    public = version.partition("+")[0]
    return public if public.replace(".", "").isdecimal() else version


NATIVE, UNLOADED_REASON = load()
"""The compiled passes, or None where there are none that can be used; and why."""

PART_LOOPS: ModuleType = parts if NATIVE is None or NATIVE.reader() != "torch" else import_module(READER)
"""What goes over the DTensors of a step: :mod:`torchclip.distributed.parts`, or what has the same functions."""
