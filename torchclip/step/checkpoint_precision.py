"""State of a checkpoint that a precision policy holds, or held, in other types: converted, or refused."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from torchclip.backends.reference import codecs
from torchclip.policies.precision import Precision
from torchclip.policies.precision.codec import BLOCK, MASTER, REMAINDER, Codec, Kind, absmax_of
from torchclip.rules.rule_spec import RuleSpec, StateSlot
from torchclip.state.precision_state import check_precision

HELD_BY = {REMAINDER: "SplitMaster", MASTER: "MasterWeights"}


def held_otherwise(
    spec: RuleSpec,
    name: str,
    parameter: Tensor,
    group: Mapping[str, Any],
    precision: Precision | None,
    entries: dict[str, Any],
) -> tuple[dict[str, Any], dict[str, Any], set[str]]:
    """The entries of a checkpoint that are loaded as without a precision policy, those that are ready, and the names of
    those that were converted.

    Codes of 8 bits become float32 where they are not wanted, and state of any type becomes codes where they are; what
    is narrower is rounded to nearest.

    Args:
        spec: the rule.
        name: what errors call the parameter.
        parameter: whose state it is.
        group: the parameter's.
        precision: the optimizer's policy.
        entries: the state of the checkpoint, under the names that it has here; it is not changed.

    Raises:
        TypeError, ValueError, RuntimeError: for what the policy cannot hold, and for what another policy kept beside
            the parameter, without which its value is not known.
    """
    types = None
    if precision is not None:
        check_precision(name, parameter, group, precision)
        types = precision.types(spec, parameter)
    beside = {} if types is None else types.beside
    for key, policy in HELD_BY.items():
        if entries.get(key) is not None and key not in beside:
            raise RuntimeError(
                f"the checkpoint's state of {name} has {key!r}, which {policy} keeps beside a parameter, and this "
                f"optimizer has precision={precision!r}: load it into one with precision={policy}(), or save "
                "float32_state_dict() and float32_parameters() there"
            )
    rest, converted = dict(entries), set()
    ready: dict[str, Any] = {}
    for slot in spec.slots:
        value, absmax = rest.get(slot.name), rest.pop(absmax_of(slot.name), None)
        codec = None if types is None else types.slots.get(slot.name)
        if not isinstance(value, Tensor) or value.is_complex() or value.layout is not torch.strided:
            continue  # refused, where it is, as without a policy
        if value.dtype is torch.uint8 and codec is not None and codec.kind is Kind.BLOCKS:
            ready |= {slot.name: _copied(value, parameter), absmax_of(slot.name): _copied(absmax, parameter)}
            del rest[slot.name]
            continue
        if value.dtype is torch.uint8:
            rest[slot.name] = value = _decoded(slot, name, value, absmax)
            converted.add(slot.name)
        if codec is not None and value.is_floating_point():
            if codec.kind is Kind.BLOCKS or value.dtype is not codec.dtype:
                converted.add(slot.name)
            ready |= _held(slot, codec, value.detach().to(parameter.device), parameter)
            del rest[slot.name]
    for key, dtype in beside.items():
        if key in HELD_BY and rest.get(key) is not None:
            ready[key] = _copied(rest.pop(key), parameter)
            if isinstance(ready[key], Tensor) and key == MASTER:
                ready[key] = ready[key].to(dtype)
    return rest, ready, converted


def warn_of_conversion(names: set[str], precision: Precision | None) -> None:
    """Says, once for a checkpoint, that state was held otherwise in it."""
    if names:
        warnings.warn(
            f"the checkpoint holds {sorted(names)} in other types than precision={precision!r} does: converted",
            stacklevel=8,
        )


def _copied(value: Any, parameter: Tensor) -> Any:
    return value.detach().to(parameter.device, copy=True) if isinstance(value, Tensor) else value


def _decoded(slot: StateSlot, name: str, codes: Tensor, absmax: Any) -> Tensor:
    blocks = -(-codes.numel() // BLOCK)
    if not isinstance(absmax, Tensor) or absmax.shape != (blocks,) or not absmax.is_floating_point():
        came = f"of shape {tuple(absmax.shape)}" if isinstance(absmax, Tensor) else type(absmax).__name__
        raise RuntimeError(
            f"state {slot.name!r} of {name} is torch.uint8 in the checkpoint, and {absmax_of(slot.name)!r} is {came}: "
            f"codes need a float32 absmax for each 256 elements, of shape ({blocks},)"
        )
    scale = absmax.detach().to(codes.device, torch.float32)
    return codecs.from_blocks(codes.detach(), scale, is_signed=not slot.non_negative)


def _held(slot: StateSlot, codec: Codec, value: Tensor, parameter: Tensor) -> dict[str, Any]:
    """A slot as its codec holds it: a copy."""
    if codec.kind is not Kind.BLOCKS:
        return {slot.name: value.to(codec.dtype, copy=True)}
    like = torch.empty_like(parameter, dtype=torch.uint8, requires_grad=False)
    if value.shape != like.shape:
        return {slot.name: value}  # which does not fit, and is refused
    codes, absmax = codecs.to_blocks(value.float(), like, is_signed=codec.is_signed)
    return {slot.name: like.copy_(codes), absmax_of(slot.name): absmax}
