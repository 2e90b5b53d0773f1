"""How the operands of a step are held: a codec for the parameter and for each state slot, which make its types.

A codec says what lies in memory; the arithmetic that loads and stores it is each backend's:
``torchclip/backends/reference/codecs.py`` in plain torch.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

BLOCK = 256
"""Elements that share one absmax: consecutive ones in memory, the last block of a tensor may be shorter.

Those of a DTensor are blocks of the whole tensor, whatever its shards are: its rows, the indices of its first
dimension, have whole blocks, and are not split."""

REMAINDER, MASTER = "remainder", "master"
"""What is kept beside a parameter, under these keys of its state."""

ROUNDING_STREAM = 3
"""Philox' stream of the bits for stochastic rounding, beside those of the extensions. Operands 2 i and 2 i + 1, the
parameter 0 and the slots from 1 on, have the lower and the upper 16 bits of the words of stream 3 + i."""


def absmax_of(slot: str) -> str:
    """The key of the absmax that belongs to a slot in blocks."""
    return f"{slot}_absmax"


def has_block_rows(parameter: Tensor) -> bool:
    """Whether blocks follow the rows of a parameter: it is a DTensor."""
    return hasattr(parameter, "placements")


def may_cut_blocks(parameter: Tensor) -> bool:
    """Whether a shard of a parameter might begin within a block: of a DTensor whose rows are split, or have no whole
    number of blocks, or do not follow one another in memory. Shards of more processes or fewer change nothing."""
    if not has_block_rows(parameter):
        return False
    splits_rows = any(getattr(placement, "dim", 0) != 0 for placement in parameter.placements)  # type: ignore[attr-defined]
    if splits_rows or parameter.ndim == 0 or parameter.shape[0] == 0:
        return True
    strides = [stride for stride, size in zip(parameter.stride(), parameter.shape, strict=True) if size > 1]
    follow = parameter.shape[0] == 1 or parameter.stride(0) == max(strides)
    return not follow or parameter.numel() // parameter.shape[0] % BLOCK != 0


class Kind(enum.Enum):
    """How a float32 value becomes what lies in memory."""

    NEAREST = "rounded to the nearest of its type, ties to even"
    STOCHASTIC = "rounded to bfloat16 up or down, with the probabilities that make the mean exact"
    SPLIT = "bfloat16, and beside it the 16 bits that it lacks"
    MASTER = "rounded to nearest, and beside it the float32 value"
    BLOCKS = "an 8-bit code for each element, and a float32 absmax for each block"


@dataclass(frozen=True)
class Codec:
    """How one operand is held.

    Args:
        kind: how a value is stored.
        dtype: of the operand's own tensor.
        is_signed: for blocks, whether values may be negative.
    """

    kind: Kind
    dtype: torch.dtype
    is_signed: bool = True


@dataclass(frozen=True)
class Types:
    """How the operands of one parameter are held: what a kernel would be compiled for.

    Args:
        parameter: the parameter's codec.
        slots: those of state slots, by name; one that is not here is held as without a policy.
        numbers: for each slot of the rule its number among the operands, from 1 on.
    """

    parameter: Codec
    slots: Mapping[str, Codec]
    numbers: Mapping[str, int]

    @property
    def beside(self) -> dict[str, torch.dtype]:
        """The entries of state that codecs keep beside the operands, and their types."""
        kept: dict[str, torch.dtype] = {}
        if self.parameter.kind is Kind.SPLIT:
            kept[REMAINDER] = torch.int16
        if self.parameter.kind is Kind.MASTER:
            kept[MASTER] = torch.float32
        for name, codec in self.slots.items():
            if codec.kind is Kind.BLOCKS:
                kept[absmax_of(name)] = torch.float32
        return kept

    def shape_beside(self, name: str, parameter: Tensor) -> torch.Size:
        """The shape of such an entry: the parameter's, or [blocks]; [rows, blocks of a row] of a DTensor."""
        if name in (REMAINDER, MASTER):
            return parameter.shape
        if has_block_rows(parameter):
            rows = parameter.shape[0]
            return torch.Size([rows, parameter.numel() // rows // BLOCK])
        return torch.Size([-(-parameter.numel() // BLOCK)])
