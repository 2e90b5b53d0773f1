"""The operands of a step: parameter and state as the rules take them, and as a precision policy's codecs hold them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from torchclip.backends.reference import codecs
from torchclip.policies.precision.codec import MASTER, REMAINDER, ROUNDING_STREAM, Codec, Kind, Types, absmax_of
from torchclip.rules.rule_spec import State
from torchclip.state.sharded import PLAIN_TENSORS, is_sharded, local_of

Words = Callable[[int], Tensor]
"""The words of a stream of draws, one for each element: int64 in [0, 2**32), in the parameter's shape."""


def local_view(tensor: Tensor) -> Tensor:
    """What a step computes on: of a DTensor this process's shard, of a complex tensor its real view."""
    own = tensor if type(tensor) in PLAIN_TENSORS else local_of(tensor)
    return torch.view_as_real(own) if own.is_complex() else own


def working(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A local view as the rules take it: in their type and with at least one dimension.

    A 0-dim one would be promoted by the float64 scalars that it meets, and be computed differently from the rest. Under
    autograd it is always a copy, since the graph keeps it and the original is written.
    """
    taken = tensor.to(dtype, copy=torch.is_grad_enabled())
    return taken if taken.ndim > 0 else taken.reshape(1)


def parameter_value(parameter: Tensor, types: Types | None, held: Mapping[str, Any], dtype: torch.dtype) -> Tensor:
    """The value that a parameter stands for, as the rules take it.

    Args:
        parameter: its local view.
        types: how it is held; None without a precision policy.
        held: its state; what is kept beside it may still be missing.
        dtype: the compute type.
    """
    kind = Kind.NEAREST if types is None else types.parameter.kind
    if kind is Kind.SPLIT and held.get(REMAINDER) is not None:
        return working(codecs.join(parameter, local_view(held[REMAINDER])), dtype)
    if kind is Kind.MASTER and held.get(MASTER) is not None:
        return working(local_view(held[MASTER]), dtype)
    return working(parameter, dtype)


def slot_value(name: str, types: Types, stored: Mapping[str, Any], dtype: torch.dtype) -> Tensor:
    """A state tensor as the rules take it.

    Args:
        name: the slot's.
        types: how it is held.
        stored: the state.
        dtype: the compute type.
    """
    codec = types.slots.get(name)
    if codec is None or codec.kind is not Kind.BLOCKS:
        return working(local_view(stored[name]), dtype)
    codes, absmax = local_view(stored[name]), local_view(stored[absmax_of(name)])
    return working(codecs.from_blocks(codes, absmax, is_signed=codec.is_signed), dtype)


def codes_in_order(types: Types, parameter: Tensor, held: Mapping[str, Any]) -> dict[str, Tensor]:
    """Codes that lie in another order than their parameter, those of a checkpoint say, in the parameter's, which the
    passes walk, with the absmax of each: in blocks of other elements, so that they are rounded once more.

    Args:
        types: how operands are held.
        parameter: whose state it is.
        held: its state, which is left as it is.
    """
    moved: dict[str, Tensor] = {}
    for name, codec in types.slots.items():
        codes = held.get(name)
        if codec.kind is not Kind.BLOCKS or not isinstance(codes, Tensor) or is_sharded(codes):
            continue
        if codes.stride() == parameter.stride() or torch.compiler.is_compiling():
            continue  # a graph would move those of a step that is not taken
        like = torch.empty_like(parameter, dtype=torch.uint8, requires_grad=False)
        if _steps_of(codes) == _steps_of(like):
            continue
        value = codecs.from_blocks(codes, held[absmax_of(name)], is_signed=codec.is_signed)
        coded, moved[absmax_of(name)] = codecs.to_blocks(value.view(codes.shape), like, is_signed=codec.is_signed)
        moved[name] = like.copy_(coded)
    return moved


def _steps_of(tensor: Tensor) -> list[int]:
    """The strides of dimensions with more than one element."""
    return [stride for stride, size in zip(tensor.stride(), tensor.shape, strict=True) if size > 1]


def as_stored(parameter: Tensor, types: Types | None, value: Tensor) -> Tensor:
    """The new value as a later step will find it; where it is rounded at random, which happens once, as it is."""
    if types is None or types.parameter.kind is Kind.NEAREST:
        return value.to(parameter.dtype).to(value.dtype)
    return value


def encoded(
    types: Types, value: Tensor, new: State, stored: Mapping[str, Any], words: Words | None
) -> tuple[Tensor, State]:
    """A new parameter and its new state as they are to be written, with what codecs keep beside them.

    Args:
        types: how operands are held.
        value: of the parameter, in the compute type.
        new: the new state, likewise; it may hold numbers, and slots that no codec is given for.
        stored: local views of the state that will be written.
        words: the draws; None where every codec rounds to nearest, a loaded checkpoint's say.
    """
    written: State = dict(new)
    for name, codec in types.slots.items():
        if name in new and codec.kind is Kind.BLOCKS:
            codes, absmax = codecs.to_blocks(new[name], stored[name], is_signed=codec.is_signed)
            written |= {name: codes, absmax_of(name): absmax}
        elif name in new:
            written[name] = _rounded(new[name], codec, types.numbers[name], words)
    kind = types.parameter.kind
    if kind is Kind.SPLIT:
        value, written[REMAINDER] = codecs.split(value)
    elif kind is Kind.MASTER:
        written[MASTER] = value
    else:
        value = _rounded(value, types.parameter, 0, words)
    return value, written


def _rounded(value: Tensor, codec: Codec, number: int, words: Words | None) -> Tensor:
    """In the codec's type where that is stochastic; else as it is, since writing rounds it to nearest."""
    if codec.kind is not Kind.STOCHASTIC or words is None:
        return value
    bits = words(ROUNDING_STREAM + number // 2).view_as(value) >> (16 * (number % 2))
    return codecs.stochastic_bfloat16(value, bits & 0xFFFF)
