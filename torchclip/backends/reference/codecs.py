r"""Codecs in plain torch: float32 values as they lie in memory, and back.

bfloat16 has the upper 16 bits of float32, so rounding works on the bits :math:`b`: :math:`\lfloor (b + r) / 2^{16}
\rfloor` with :math:`r` drawn from :math:`[0, 2^{16})` is stochastic rounding, and with :math:`r = 2^{15}` it is the
nearest, ties away from zero. The equations are in the docstrings of the policies, ``torchclip/policies/precision/``.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor
from torch.nn.functional import pad

from torchclip.backends.reference.draws import in_memory_order
from torchclip.policies.precision.codec import BLOCK

HALF = 0x8000
INFINITE, NAN = 0x7F80, 0x7FC0  # of bfloat16
DECADES = 7


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


def dynamic_map(is_signed: bool) -> tuple[float, ...]:
    """The 256 values of an 8-bit code, in [-1, 1] or [0, 1], ascending.

    0, 1, and in each of seven decades the middles of equal parts: twice as many as in the decade below.
    """
    values = [0.0, 1.0]
    for decade in range(DECADES):
        parts = 2 ** (decade if is_signed else decade + 1)
        scale = 10.0 ** (decade - DECADES + 1)
        middles = [scale * (0.1 + 0.9 * (part + 0.5) / parts) for part in range(parts)]
        values += [*middles, *(-middle for middle in middles)] if is_signed else middles
    return tuple(sorted(values))


MAPS = {is_signed: dynamic_map(is_signed) for is_signed in (True, False)}


def _made_tables(is_signed: bool, device: torch.device) -> tuple[Tensor, Tensor]:
    values = torch.tensor(MAPS[is_signed], dtype=torch.float64, device="cpu")
    middles = (values[1:] + values[:-1]) / 2
    return values.float().to(device), middles.float().to(device)


@functools.cache
def _kept_tables(is_signed: bool, device: torch.device) -> tuple[Tensor, Tensor]:
    with torch.inference_mode(False):
        return _made_tables(is_signed, device)


def tables(is_signed: bool, device: torch.device) -> tuple[Tensor, Tensor]:
    """The map, [256], and the middles between its values, [255]: float32, not to be written to."""
    # A graph that is being compiled makes its own: no step outside it could read those.
    return (_made_tables if torch.compiler.is_compiling() else _kept_tables)(is_signed, device)


def to_blocks(value: Tensor, like: Tensor, *, is_signed: bool) -> tuple[Tensor, Tensor]:
    """Codes and absmax of a state tensor.

    Args:
        value: float32, in the shape of ``like``.
        like: whose memory order the blocks follow.
        is_signed: whether values may be negative.

    Returns:
        uint8 in the shape of ``like``, and float32 [blocks].
    """
    _, middles = tables(is_signed, value.device)
    blocks = blocks_of(value, like)
    absmax = blocks.abs().amax(dim=1) if blocks.numel() else blocks.new_zeros(0)
    scaled = blocks / torch.where(absmax > 0, absmax, 1.0).unsqueeze(1)
    codes = torch.bucketize(scaled, middles)
    if not is_signed:
        codes = torch.where((codes == 0) & (blocks > 0), 1, codes)
    return in_memory_order(codes.flatten().to(torch.uint8), like), absmax


def from_blocks(codes: Tensor, absmax: Tensor, *, is_signed: bool) -> Tensor:
    """The float32 state tensor of codes.

    Args:
        codes: uint8; blocks follow its memory.
        absmax: float32, in any shape the blocks in their order.
        is_signed: as in :func:`to_blocks`.
    """
    values, _ = tables(is_signed, codes.device)
    return decoded(codes, absmax, values, BLOCK)


def decoded(codes: Tensor, absmax: Tensor, values: Tensor, block: int) -> Tensor:
    """float32, of codes: the value of each times the absmax of its block.

    Args:
        codes: uint8; blocks follow its memory.
        absmax: float32, in any shape the blocks in their order.
        values: float32 [256].
        block: elements of one.
    """
    flat = values[_memory_ordered(codes, codes).long()]
    scale = absmax.flatten().repeat_interleave(block)[: flat.numel()]
    return in_memory_order(flat * scale, codes)


def blocks_of(value: Tensor, like: Tensor) -> Tensor:
    """[blocks, 256]: ``value``, shaped as ``like``, in the order in which that lies in memory; zeros behind it."""
    flat = _memory_ordered(value, like)
    return pad(flat, (0, -flat.numel() % BLOCK)).view(-1, BLOCK)


def _memory_ordered(value: Tensor, like: Tensor) -> Tensor:
    """[elements]: ``value`` in the order in which ``like`` lies in memory."""
    strides = like.stride()
    order = sorted(range(like.ndim), key=lambda dimension: -strides[dimension])
    return value.view(like.shape).permute(order).reshape(-1)
