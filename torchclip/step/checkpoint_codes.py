"""Codes of 8 bits in a checkpoint: whose blocks they are in, and their values."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from torchclip.backends.reference import codecs
from torchclip.policies.precision.codec import BLOCK, absmax_of
from torchclip.rules.rule_spec import StateSlot
from torchclip.state.precision_state import LAST_CODE
from torchclip.state.sharded import is_sharded, local_of, shard_like


def decoded(slot: StateSlot, name: str, codes: Tensor, absmax: Any, parameter: Tensor) -> Tensor:
    """The float32 state of codes.

    Args:
        slot: what they are.
        name: what errors call the parameter.
        codes: uint8.
        absmax: of their blocks.
        parameter: whose state it is.

    Raises:
        RuntimeError: where there is no absmax of each block.
    """
    own = local_of(codes.detach())
    blocks = -(-own.numel() // BLOCK)
    scale = local_of(absmax.detach()) if isinstance(absmax, Tensor) else None
    if scale is None or scale.numel() != blocks or not scale.is_floating_point():
        came = f"of shape {tuple(absmax.shape)}" if isinstance(absmax, Tensor) else type(absmax).__name__
        raise RuntimeError(
            f"state {slot.name!r} of {name} is torch.uint8 in the checkpoint, and {absmax_of(slot.name)!r} is {came}: "
            f"codes need a float32 absmax for each 256 elements, of shape ({blocks},)"
        )
    own = local_of(in_order_of_blocks(slot, name, codes.detach(), absmax.detach(), parameter))
    value = codecs.from_blocks(own, scale.to(own.device, torch.float32), is_signed=not slot.non_negative)
    return shard_like(codes, value)


def in_order_of_blocks(slot: StateSlot, name: str, codes: Tensor, absmax: Tensor, parameter: Tensor) -> Tensor:
    """Codes that lie in memory as they did when their blocks were made.

    Blocks follow the memory, and whoever copies values alone, as ``contiguous()`` and ``torch.distributed.checkpoint``
    do, loses the order of codes that lay in another. The largest element of a block has the outermost code: where one
    is missing, the order is not that of the blocks, and that of the parameter is tried. Of a few blocks, each may have
    one by chance. The arguments are those of :func:`decoded`.

    Raises:
        RuntimeError: where neither order is that of the blocks.
    """
    is_signed = not slot.non_negative
    if codes.is_meta or absmax.is_meta:
        return codes
    if not _are_of_the_map(local_of(codes), local_of(absmax), is_signed):
        raise RuntimeError(
            f"state {slot.name!r} of {name} is codes of 8 bits whose {absmax_of(slot.name)!r} is none of "
            "Blockwise8bit's: they are of another map, that of an earlier torchclip say, or it was rounded since; load "
            "them by what saved them, and save float32_state_dict()"
        )
    if any(map(is_sharded, (codes, absmax, parameter))) or codes.shape != parameter.shape:
        return codes  # shards have blocks of whole rows; what does not fit is refused
    if codes.ndim < 2 or absmax.numel() != -(-codes.numel() // BLOCK) or _are_in_order(codes, absmax, is_signed):
        return codes
    moved = torch.empty_like(parameter, dtype=torch.uint8, requires_grad=False).copy_(codes)
    if _are_in_order(moved, absmax, is_signed):
        return moved
    raise RuntimeError(
        f"state {slot.name!r} of {name} is codes of 8 bits whose order in memory, by strides {codes.stride()}, is not "
        f"that of their blocks of {BLOCK}, and neither is the parameter's, {parameter.stride()}: most likely the "
        "parameter lay otherwise when they were saved (in channels_last, or transposed), and what saved or loaded them "
        "did not keep strides, as torch.save does. Load into a parameter that lies so, or save float32_state_dict()"
    )


def _are_of_the_map(codes: Tensor, absmax: Tensor, is_signed: bool) -> bool:
    """Whether every absmax is one that encoding leaves, or none has been encoded yet."""
    scale = absmax.float()
    fits = (codecs.scale_of(scale) * codecs.LAST_STEP == scale) | ~scale.isfinite()
    return bool(fits.all()) or bool((codes == LAST_CODE[is_signed]).all())


def _are_in_order(codes: Tensor, absmax: Tensor, is_signed: bool) -> bool:
    """Whether every block of more than zeros has a code of its largest element."""
    outermost = codes == LAST_CODE[is_signed]
    if is_signed:
        outermost |= codes == 256 - LAST_CODE[is_signed]
    found = codecs.blocks_of(outermost, codes).any(dim=1)
    scale = absmax.flatten().to(codes.device)
    least = codecs.scale_of(torch.tensor(codecs.LEAST_ABSMAX)) * codecs.LAST_STEP  # of smaller ones as well
    needs_none = ~(scale.isfinite() & (scale > least.to(scale.device)))
    return bool((found | needs_none).all())
