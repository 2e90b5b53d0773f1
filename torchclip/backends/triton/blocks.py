"""How many elements a program takes, how many of them at a time, and by how many warps."""

from __future__ import annotations

from typing import NamedTuple

import torch


class Block(NamedTuple):
    """A program's size.

    Args:
        elements: at a time, a power of two.
        warps: of a program.
        half_elements: of half precision at a time in an update that keeps little in registers, a power of two.
        piece_bytes: of the parameter that a program of the update takes in all, a multiple of 8 * CHUNK_GRAIN.
    """

    elements: int
    warps: int
    half_elements: int
    piece_bytes: int


BLOCKS: dict[str, Block] = {
    "cuda": Block(1024, 4, 2048, 16384),
    "hip": Block(2048, 4, 2048, 16384),  # whose warps are of 64 threads
    "cpu": Block(4096, 1, 4096, 1 << 19),  # no chunk is larger
}
"""For each kind of device. In place of autotuning, which would run kernels that work in place many times over.

Eight elements a thread: two accesses of 128 bits for each float32 operand, one for half precision; sixteen elements of
half precision where their registers suffice. Reckoned from those: no spill for any rule on sm_80, sm_90 and gfx942.
"""


def block_for(device: torch.device) -> Block:
    """The block of a device's kind."""
    if device.type == "cpu":
        return BLOCKS["cpu"]  # the interpreter's cost is in the number of operations
    return BLOCKS["hip" if torch.version.hip else "cuda"]
