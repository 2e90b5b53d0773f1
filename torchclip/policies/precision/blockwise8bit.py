"""State in 8 bits, with one absmax for each block of 256 elements."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from torchclip.policies.numbers import set_number
from torchclip.policies.precision.codec import Codec, Kind, may_cut_blocks
from torchclip.policies.precision.policy import FLOAT32, StatePolicy
from torchclip.rules.rule_spec import StateSlot


@dataclass(frozen=True)
class Blockwise8bit(StatePolicy):
    r"""Holds the state in 8-bit codes of its roots, scaled by the absmax of blocks of 256 elements.

    .. math::
        S_b &= \tfrac{64}{63} \max_{i \in b} |s_i| \text{ in 17 bits}, \qquad
        q_i = \mathrm{round}\big(128\, \ell^{-1}(\tfrac12 \ell(|s_i| / S_b))\big), \qquad
        s_i \leftarrow \mathrm{sign}(s_i)\, \ell^{-1}(2\, \ell(q_i / 128))\, S_b \\
        \ell(x) &= e + f \text{ for } x = 2^e (1 + f),\ 0 \le f < 1

    :math:`\ell` is the logarithm but for at most 0.09, so that codes are whole steps of a square root; of state that is
    never negative, steps of :math:`1/256` of a fourth root. Both take shifts of a float's bits in place of roots. The
    absmax that is kept is :math:`\tfrac{63}{64} S_b`, the value of the last step.

    The error is at most 0.8 % of the absmax. It is at most 1.6 % of a value from a quarter of the absmax on (of what is
    never negative: from a sixteenth on), and twice that for each factor of 4 (16) below. The smallest step is
    :math:`2^{-14}` of :math:`S_b` (:math:`2^{-32}`). What is never negative divides: above zero it does not become
    zero. docs/precision.md has other maps beside this one, measured.

    Codes are rounded to nearest, so that an average stands still while a step changes it by less than half a code,
    upwards as downwards, and moves with its block's absmax then: with :math:`\beta_2 = 0.999` a second moment of a
    tenth of the absmax stands still until :math:`g^2` is 11 times as large; with :math:`\beta_1 = 0.9` up to 0.5 % of
    it is left of a first moment whose gradients end.

    Elements are in blocks as they lie in memory. An element that is not finite, or beyond 8.3e37, makes its block NaN.
    Tensors that stay wide are held in float32. A DTensor is in blocks of the whole tensor, for any number of processes,
    where it is split along its first dimension alone and what lies behind one index of that is a multiple of 256
    elements. Others stay wide.

    Per parameter, float32 with AdamW and a float32 gradient: 6.03 bytes held (parameter 4, codes 2, absmax 2 × 4 / 256)
    for 12, and 4.02 words (of 4 bytes) moved for 7; SGD with momentum: 5.02 bytes for 8, 3.51 words for 5.

    Args:
        min_elements: smaller tensors stay wide; at least 0.
        embedding_rows: matrices of this many rows and more stay wide: embeddings, of which a step touches few rows.
            None: none do.

    Raises:
        TypeError: for a threshold that is no integer.
        ValueError: for one below 0.

    Example:
        >>> import torch, torchclip
        >>> weight = torch.nn.Parameter(torch.ones(64, 64))
        >>> optimizer = torchclip.AdamW([weight], precision=torchclip.Blockwise8bit())
        >>> weight.grad = torch.ones(64, 64)
        >>> optimizer.step()
        >>> optimizer.state[weight]["exp_avg"].dtype, optimizer.state[weight]["exp_avg_absmax"].shape
        (torch.uint8, torch.Size([16]))

    Source: blocks are those of Dettmers, Lewis, Shleifer, Zettlemoyer, 8-bit Optimizers via Block-wise Quantization,
    ICLR 2022, arXiv 2110.02861, section 2.1; the logarithm is that of Mitchell, Computer Multiplication and Division
    Using Binary Logarithms, IRE Transactions on Electronic Computers EC-11, 1962. The map itself is this library's.
    """

    min_elements: int = 4096
    embedding_rows: int | None = 30_000

    def __post_init__(self) -> None:
        for name in ("min_elements", "embedding_rows"):
            if name != "embedding_rows" or self.embedding_rows is not None:
                set_number(self, name, least=0, whole=f"a number of {name.partition('_')[2]}")

    @property
    def draws(self) -> bool:
        return False

    @property
    def has_blocks(self) -> bool:
        return True

    def stays_wide(self, parameter: Tensor) -> bool:
        """Whether the state of a parameter is held in float32, by its shape, and by its placements."""
        rows = self.embedding_rows
        is_embedding = rows is not None and parameter.ndim == 2 and parameter.shape[0] >= rows
        is_small = parameter.numel() < max(self.min_elements, 1)
        return is_embedding or is_small or may_cut_blocks(parameter)

    def slot_codec(self, slot: StateSlot, parameter: Tensor, otherwise: Codec) -> Codec:
        if self.stays_wide(parameter):
            return FLOAT32
        return Codec(Kind.BLOCKS, torch.uint8, is_signed=not slot.non_negative)
