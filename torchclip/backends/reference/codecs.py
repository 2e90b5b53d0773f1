r"""Codecs in plain torch: float32 values as they lie in memory, and back.

bfloat16 has the upper 16 bits of float32, so rounding works on the bits :math:`b`: :math:`\lfloor (b + r) / 2^{16}
\rfloor` with :math:`r` drawn from :math:`[0, 2^{16})` is stochastic rounding, and with :math:`r = 2^{15}` it is the
nearest, ties away from zero. The equations are in the docstrings of the policies, ``torchclip/policies/precision/``.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from torchclip.backends.reference.draws import in_memory_order
from torchclip.policies.precision.codec import BLOCK

HALF = 0x8000
INFINITE, NAN = 0x7F80, 0x7FC0  # of bfloat16
ONE = 0x3F800000
"""The bits of 1 in float32."""
HALVINGS = {True: 1, False: 2}
"""Of the logarithm, from values to their roots, by whether they may be negative."""
STEP = {True: 2.0**-7, False: 2.0**-8}
"""Of roots, from one code to the next."""
LAST_STEP, LEAST_ABSMAX, BEHIND_MOST_SCALE = 63 / 64, 2.0**-120, 2.0**126


def _from_bits(high: Tensor, is_nan: Tensor) -> Tensor:
    """bfloat16 numbers from their bits, int32; what carries into the bits of another number is a NaN."""
    return torch.where(is_nan, NAN, high).to(torch.int16).view(torch.bfloat16)


def stochastic_bfloat16(value: Tensor, bits: Tensor) -> Tensor:
    """``value`` rounded to bfloat16 away from zero where its lower 16 bits and these reach 2**16, else towards it.

    Args:
        value: float32.
        bits: integers in [0, 2**16), of its shape.
    """
    return _from_bits((value.view(torch.int32) + bits.to(torch.int32)) >> 16, value.isnan())


def split(value: Tensor) -> tuple[Tensor, Tensor]:
    """A float32 value as the nearest bfloat16, ties away from zero, and what its bits are more: int16."""
    bits = value.view(torch.int32)
    is_nan = value.isnan()
    low = ((bits & 0xFFFF) ^ HALF) - HALF
    return _from_bits((bits + HALF) >> 16, is_nan), torch.where(is_nan, 0, low).to(torch.int16)


def join(parameter: Tensor, remainder: Tensor) -> Tensor:
    """The float32 value of which :func:`split` made these; the parameter's own where it makes no such pair.

    Args:
        parameter: bfloat16.
        remainder: int16, of its shape.
    """
    high, low = parameter.view(torch.int16).to(torch.int32), remainder.to(torch.int32)
    magnitude = high & 0x7FFF
    below_zero = (magnitude == 0) & (low < 0)
    is_stray = below_zero | ((magnitude == INFINITE) & (low > 0)) | (magnitude > INFINITE)
    return ((high << 16) + torch.where(is_stray, 0, low)).view(torch.float32)


def root_map(is_signed: bool, device: torch.device) -> Tensor:
    """What the 256 codes stand for in a block of scale 1, float32: of signed ones those below zero come last."""
    step = torch.arange(256, dtype=torch.float32, device=device)
    step = torch.where(step < 128, step, step - 256) if is_signed else step
    root = step.abs() * STEP[is_signed]
    bits = root.view(torch.int32) - (ONE - (ONE >> HALVINGS[is_signed]))
    return (bits.clamp(min=0) << HALVINGS[is_signed]).view(torch.float32).copysign(step)


def scale_of(absmax: Tensor) -> Tensor:
    """What 1 on the map stands for in a block of this absmax, rounded to 17 bits; 0 of 0. From 2**126 on, infinite."""
    exact = torch.where((absmax > 0) & (absmax < LEAST_ABSMAX), LEAST_ABSMAX, absmax) * (1 / LAST_STEP)
    rounded = ((exact.view(torch.int32) + 0x40) & ~0x7F).view(torch.float32)
    return torch.where(exact < BEHIND_MOST_SCALE, rounded, exact + torch.inf)


def to_blocks(value: Tensor, like: Tensor, *, is_signed: bool) -> tuple[Tensor, Tensor]:
    """Codes and absmax of a state tensor.

    Args:
        value: float32, in the shape of ``like``.
        like: whose memory order the blocks follow.
        is_signed: whether values may be negative.

    Returns:
        uint8 in the shape of ``like``, and float32 [blocks].
    """
    blocks = blocks_of(value, like)
    scale = scale_of(blocks.abs().amax(dim=1) if blocks.numel() else blocks.new_zeros(0))
    inverse = torch.where((scale > 0) & scale.isfinite(), 1 / scale, 0.0).unsqueeze(1)
    bits = (blocks * inverse).abs().view(torch.int32)
    root = ((bits >> HALVINGS[is_signed]) + (ONE - (ONE >> HALVINGS[is_signed]))).view(torch.float32)
    step = (root / STEP[is_signed]).round()
    step = torch.where(blocks < 0, -step, step) if is_signed else torch.where(blocks > 0, step.clamp(min=1), 0.0)
    codes = torch.where(inverse > 0, step, 0.0).to(torch.int16)
    return in_memory_order((codes & 0xFF).flatten().to(torch.uint8), like), scale * LAST_STEP


def from_blocks(codes: Tensor, absmax: Tensor, *, is_signed: bool) -> Tensor:
    """The float32 state tensor of codes.

    Args:
        codes: uint8; blocks follow its memory.
        absmax: float32, in any shape the blocks in their order.
        is_signed: as in :func:`to_blocks`.
    """
    return decoded(codes, scale_of(absmax), root_map(is_signed, codes.device), BLOCK)


def decoded(codes: Tensor, scale: Tensor, values: Tensor, block: int) -> Tensor:
    """float32, of codes: the value of each times the scale of its block.

    Args:
        codes: uint8; blocks follow its memory.
        scale: float32, in any shape the blocks in their order.
        values: float32 [256].
        block: elements of one.
    """
    flat = values[_memory_ordered(codes, codes).long()]
    return in_memory_order(flat * scale.flatten().repeat_interleave(block)[: flat.numel()], codes)


def blocks_of(value: Tensor, like: Tensor) -> Tensor:
    """[blocks, 256]: ``value``, shaped as ``like``, in the order in which that lies in memory; zeros behind it."""
    flat = _memory_ordered(value, like)
    return pad(flat, (0, -flat.numel() % BLOCK)).view(-1, BLOCK)


def _memory_ordered(value: Tensor, like: Tensor) -> Tensor:
    """[elements]: ``value`` in the order in which ``like`` lies in memory."""
    strides = like.stride()
    order = sorted(range(like.ndim), key=lambda dimension: -strides[dimension])
    return value.view(like.shape).permute(order).reshape(-1)
