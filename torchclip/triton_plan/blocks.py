"""How many elements a program takes at a time, and by how many warps."""

from __future__ import annotations

from typing import NamedTuple

import torch


class Block(NamedTuple):
    """A program's size.

    Args:
        elements: at a time, a power of two.
        warps: of a program.
    """

    elements: int
    warps: int


BLOCKS: dict[str, Block] = {
    "cuda": Block(1024, 4),
    "hip": Block(2048, 4),  # whose warps are of 64 threads
    "cpu": Block(4096, 1),
}
"""For each kind of device. In place of autotuning, which would run kernels that work in place many times over.

Eight elements a thread: two accesses of 128 bits for each float32 operand, one for half precision. Reckoned from
registers (no spill for any rule on sm_80, sm_90 and gfx942) and not measured; ``python -m bench.blocks`` measures them.
"""


def block_for(device: torch.device) -> Block:
    """The block of a device's kind."""
    if device.type == "cpu":
        return BLOCKS["cpu"]  # the interpreter's cost is in the number of operations
    return BLOCKS["hip" if torch.version.hip else "cuda"]
