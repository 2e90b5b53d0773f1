"""A driver for Triton without a GPU: kernels are compiled for one and loaded nowhere, and launches are recorded.

For processes without TRITON_INTERPRET. Everything but the kernel itself is the real thing: what Triton makes of the
arguments, which variants it compiles, and how often.
"""

from __future__ import annotations

from typing import Any

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from torchclip.backends import choice as backends
from torchclip.backends.triton import blocks

launched: list[tuple[str, int]] = []
"""The name of each kernel that was launched since the list was last cleared, and its number of programs."""


class _Launcher:
    """Stands in for the C function that Triton makes of a kernel's signature."""

    def __init__(self, source: Any, metadata: Any) -> None:
        self._parameters = len(source.fn.arg_names)
        self._name = source.fn.__name__

    def __call__(self, programs: int, y: int, z: int, stream: int, function: int, *arguments: Any) -> None:
        own = arguments[4:]  # behind two kinds of metadata and two hooks
        assert len(own) == self._parameters, f"{self._name} was launched with {len(own)} arguments"
        launched.append((self._name, programs))


class _Utilities:
    def load_binary(self, name: str, binary: bytes, shared: int, device: int) -> tuple[int, int, int, int, int]:
        """Module, function, registers, spilled registers, and the largest number of threads."""
        return 0, 0, 32, 0, 1024

    def get_device_properties(self, device: int) -> dict[str, int]:
        """Of an H100."""
        return {"max_shared_mem": 232448, "max_num_regs": 65536, "multiprocessor_count": 132, "warpSize": 32}

    def unload_module(self, module: int) -> None:
        """There is none."""


class _Driver:
    launcher_cls = _Launcher
    utils = _Utilities()

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")


def install() -> None:
    """For the rest of the process tensors on the CPU are those of a GPU to the Triton backend."""
    driver.set_active(_Driver())
    served = backends.served_device
    backends._triton_reason = lambda: None
    backends.served_device = lambda backend: "cpu" if backend == "triton" else served(backend)
    blocks.BLOCKS["cpu"] = blocks.BLOCKS["cuda"]
