"""State of a checkpoint that a precision policy holds, or held, in other types: converted, or refused."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from torchclip.backends.reference import codecs
from torchclip.policies.precision import Precision
from torchclip.policies.precision.codec import MASTER, REMAINDER, Kind, Types, absmax_of
from torchclip.rules.rule_spec import RuleSpec, StateSlot
from torchclip.state.precision_state import check_precision
from torchclip.state.sharded import held_part, is_sharded, local_of, shard_like
from torchclip.step.checkpoint_codes import decoded, in_order_of_blocks

HELD_BY = {REMAINDER: "SplitMaster", MASTER: "MasterWeights"}


@torch.no_grad()
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
        if not isinstance(value, Tensor) or value.is_complex() or not has_values(value, parameter):
            continue  # refused, where it is, as without a policy
        if value.dtype is torch.uint8 and isinstance(absmax, Tensor) and not has_values(absmax, parameter):
            raise of_another_kind(absmax_of(slot.name), name, absmax, parameter)
        if value.dtype is torch.uint8 and types is not None and codec is not None and codec.kind is Kind.BLOCKS:
            if isinstance(absmax, Tensor):
                value = in_order_of_blocks(slot, name, value.detach(), absmax.detach(), parameter)
            ready |= {
                slot.name: _copied(value, parameter),
                absmax_of(slot.name): _absmax(types, slot, absmax, parameter),
            }
            del rest[slot.name]
            continue
        if value.dtype is torch.uint8:
            rest[slot.name] = value = decoded(slot, name, value, absmax, parameter)
            converted.add(slot.name)
        if types is not None and codec is not None and value.is_floating_point():
            if codec.kind is Kind.BLOCKS or value.dtype is not codec.dtype:
                converted.add(slot.name)
            ready |= _held(types, slot, value.detach().to(parameter.device), parameter)
            del rest[slot.name]
    for key, dtype in beside.items():
        if key in HELD_BY and rest.get(key) is not None:
            value = rest.pop(key)
            if isinstance(value, Tensor) and not has_values(value, parameter):
                raise of_another_kind(key, name, value, parameter)
            if isinstance(value, Tensor) and not _is_beside(key, value):
                raise RuntimeError(
                    f"state {key!r} of {name} is {value.dtype} in the checkpoint, and {dtype} is wanted: load one that "
                    f"was saved with precision={HELD_BY[key]}()"
                )
            ready[key] = _copied(value, parameter)
            if isinstance(ready[key], Tensor):
                ready[key] = ready[key].to(dtype) if key == MASTER else _viewed(ready[key], dtype)
    return rest, ready, converted


def has_values(value: Tensor, parameter: Tensor) -> bool:
    """Whether there are elements in memory to make the state of a parameter of."""
    return value.layout is torch.strided and (parameter.is_meta or not value.is_meta)


def of_another_kind(key: str, name: str, value: Tensor, parameter: Tensor) -> RuntimeError:
    """The error of a state tensor that no state of its parameter can be made of; ``name`` is the parameter's."""
    return RuntimeError(
        f"state {key!r} of {name} is {value.dtype} of layout {value.layout} on {value.device.type} in the checkpoint, "
        f"and the parameter is {parameter.dtype} on {parameter.device.type}: load a checkpoint made for this model and "
        "this optimizer"
    )


def with_bits_to_send(state: Mapping[Any, Any]) -> dict[Any, Any]:
    """A state dict's state, in which remainders are bfloat16 of the same memory: whoever gathers a full one sends them,
    and neither gloo nor NCCL sends int16. Those of plain tensors are too, since torch.distributed.checkpoint takes one
    type for the other by its numbers, and not by its bits."""
    return {
        key: {**held, REMAINDER: _viewed(held[REMAINDER], torch.bfloat16)}
        if isinstance(held, Mapping) and isinstance(held.get(REMAINDER), Tensor)
        else held
        for key, held in state.items()
    }


DIFFERENT = 16
"""Numbers that show what they are."""


def check_remainders(states: Iterable[Any]) -> None:
    """Raises RuntimeError for remainders that are numbers in the place of bits.

    ``torch.distributed.checkpoint`` makes such of int16, as which those of plain tensors were saved once: all are whole
    and most are large. Of sixteen different ones that are bits, all are such numbers once in 10^23 times; equal ones
    there are many, of parameters that began alike.
    """
    different: set[float] = set()
    for held in states:
        remainder = held.get(REMAINDER) if isinstance(held, Mapping) else None
        if not isinstance(remainder, Tensor) or remainder.dtype is not torch.bfloat16:
            continue
        numbers = local_of(remainder.detach()).float()
        sizes = numbers[numbers != 0].abs()
        if not bool(((sizes == sizes.trunc()) & (sizes <= 2**15)).all()):
            return
        if len(different) < DIFFERENT:
            different |= set(sizes.unique()[-DIFFERENT:].tolist())
    if len(different) >= DIFFERENT and max(different) > 2**8:
        raise RuntimeError(
            f"the checkpoint's {REMAINDER!r} are whole numbers up to {max(different):g}, and bits are wanted: "
            "torch.distributed.checkpoint has taken int16, as earlier versions saved them, for bfloat16 by their "
            f"numbers. Before its load, replace each {REMAINDER!r} in the state dict that it fills by "
            ".view(torch.int16) of it, which is the same memory"
        )


def _viewed(value: Tensor, dtype: torch.dtype) -> Tensor:
    """The same bits in a type of the same size."""
    return shard_like(value, held_part(value.detach()).view(dtype))


def warn_of_conversion(names: set[str], precision: Precision | None) -> None:
    """Says, once for a checkpoint, that state was held otherwise in it."""
    if names:
        warnings.warn(
            f"the checkpoint holds {sorted(names)} in other types than precision={precision!r} does: converted",
            stacklevel=8,
        )


def _is_beside(key: str, value: Tensor) -> bool:
    """Whether it is a tensor of the kind that is kept under the key beside a parameter."""
    return value.is_floating_point() if key == MASTER else value.dtype in (torch.int16, torch.bfloat16)


def _copied(value: Any, parameter: Tensor) -> Any:
    return value.detach().to(parameter.device, copy=True) if isinstance(value, Tensor) else value


def _absmax(types: Types, slot: StateSlot, value: Any, parameter: Tensor) -> Any:
    """The absmax of a checkpoint, which has a row of them for each row of a tensor that was a DTensor there."""
    copied = _copied(value, parameter)
    if isinstance(copied, Tensor) and not is_sharded(copied) and not is_sharded(parameter):
        shape = types.shape_beside(absmax_of(slot.name), parameter)
        if copied.numel() == shape.numel():
            return copied.reshape(shape)
    return copied


def _held(types: Types, slot: StateSlot, value: Tensor, parameter: Tensor) -> dict[str, Any]:
    """A slot as its codec holds it: a copy."""
    codec = types.slots[slot.name]
    if codec.kind is not Kind.BLOCKS:
        return {slot.name: value.to(codec.dtype, copy=True)}
    like = torch.empty_like(parameter, dtype=torch.uint8, requires_grad=False)
    own, held = local_of(value), local_of(like)
    if value.shape != like.shape or own.shape != held.shape:
        return {slot.name: value}  # which does not fit, and is refused
    codes, absmax = codecs.to_blocks(own.float(), held, is_signed=codec.is_signed)
    held.copy_(codes)
    shape = types.shape_beside(absmax_of(slot.name), parameter)
    kept = absmax.view(len(held), *shape[1:]) if is_sharded(parameter) else absmax
    return {slot.name: like, absmax_of(slot.name): shard_like(parameter, kept, shape)}
