"""State under a precision policy: what is made, in the types that its codecs hold, and whether what is there fits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from torchclip.policies.precision import MasterWeights, Precision
from torchclip.policies.precision.codec import MASTER, REMAINDER, Kind, Types, absmax_of
from torchclip.rules.rule_spec import Group, RuleSpec, StateSlot
from torchclip.state.sharded import held_part, is_sharded, is_wrapper, local_of, shard_like
from torchclip.state.tensor_checks import check_layout, check_state, lazy_reason

LAST_CODE = {True: 127, False: 255}
"""The code of the absmax itself, by whether values may be negative."""


def created_slot(spec: RuleSpec, name: str, types: Types, parameter: Tensor, group: Group, value: Tensor) -> Tensor:
    """A slot before the first step, in its codec's type.

    Args:
        spec: the rule.
        name: the slot's.
        types: how operands are held.
        parameter: whose state it is.
        group: the parameter's.
        value: the value that the parameter stands for, of which some slots begin as a copy.
    """
    with torch.inference_mode(False), torch.no_grad():  # the former lets autograd record
        slot = next(slot for slot in spec.slots if slot.name == name)
        codec = types.slots[name]
        if slot.of_parameter is not None:
            made = parameter.detach().to(codec.dtype, copy=True, memory_format=torch.preserve_format)
            part = made if torch.compiler.is_compiling() else held_part(made)
            part.copy_(value.view(part.shape))
            return slot.of_parameter(made, group)
        first = LAST_CODE[codec.is_signed] if codec.kind is Kind.BLOCKS else slot.initial(group)
        return torch.full_like(
            parameter, first, dtype=codec.dtype, memory_format=torch.preserve_format, requires_grad=False
        )


def created_beside(
    spec: RuleSpec, types: Types, parameter: Tensor, group: Group, held: Mapping[str, Any]
) -> dict[str, Tensor]:
    """What codecs keep beside the operands and ``held`` lacks: of a parameter, and of the slots that ``group`` uses."""
    with torch.inference_mode(False), torch.no_grad():
        made: dict[str, Tensor] = {}
        for name in _needed(spec, types, group):
            if held.get(name) is not None:
                continue
            dtype = types.beside[name]
            if name == MASTER:
                made[name] = parameter.detach().to(dtype, copy=True, memory_format=torch.preserve_format)
            elif name == REMAINDER:
                made[name] = torch.zeros_like(parameter, dtype=dtype, requires_grad=False)
            else:
                start = next(slot.initial(group) for slot in spec.slots if absmax_of(slot.name) == name)
                made[name] = _full(parameter, types.shape_beside(name, parameter), start, dtype)
        return made


def _full(parameter: Tensor, shape: torch.Size, value: float, dtype: torch.dtype) -> Tensor:
    """A number everywhere; of a DTensor a DTensor, whose rows are where the parameter's are."""
    own = [len(held_part(parameter)), *shape[1:]] if is_sharded(parameter) else shape
    return shard_like(parameter, torch.full(own, value, dtype=dtype, device=parameter.device), shape)


def _needed(spec: RuleSpec, types: Types, group: Group) -> list[str]:
    used = {absmax_of(name) for name in spec.used_slots(group)}
    return [name for name in types.beside if name in (REMAINDER, MASTER) or name in used]


@torch.no_grad()
def renew_masters(
    precision: Precision | None, parameters: Iterable[Tensor], state: Mapping[Tensor, Mapping[str, Any]]
) -> None:
    """Has masters follow what was written to their parameters, as the plans of GPUs do. One that stands for its
    parameter stays, with the bits that this has not.

    Args:
        precision: the policy.
        parameters: with whose state no step has been taken.
        state: as in ``optimizer.state``.
    """
    if not isinstance(precision, MasterWeights):
        return
    for parameter in parameters:
        master = state.get(parameter, {}).get(MASTER)
        if isinstance(master, Tensor):
            own, value = local_of(master), local_of(parameter)
            own.copy_(torch.where(own.to(value.dtype) != value, value, own))


def check_precision(name: str, parameter: Tensor, group: Mapping[str, Any], precision: Precision) -> None:
    """Raises where a precision policy does not serve a parameter or its param group; ``name`` is for errors.

    Raises:
        TypeError: for a parameter of another type.
        ValueError: for a wrapper whose state would be in blocks, and for ``differentiable``.
    """
    reason = precision.reason_against_parameter(parameter)
    if reason is not None:
        raise TypeError(f"{name} {reason}")
    if precision.has_blocks and is_wrapper(parameter) and not is_sharded(parameter):
        raise ValueError(
            f"{name} is a {type(parameter).__name__}, whose memory blocks of 256 elements cannot follow: "
            'hold its state with StateDtype("bfloat16")'
        )
    if group.get("differentiable"):
        raise ValueError(
            f"precision={precision!r} contradicts differentiable=True: autograd does not go through rounded bits; drop "
            "one of them"
        )


def check_precise_state(
    name: str, types: Types, slots: Sequence[tuple[StateSlot, Any]], parameter: Tensor, held: Mapping[str, Any]
) -> None:
    """Raises when state does not fit its parameter or the codecs.

    Args:
        name: what errors call the parameter.
        types: how operands are held.
        slots: those that the rule uses and that are there, each with its state tensor.
        parameter: whose state it is.
        held: all of its state.
    """
    wanted = {name: codec.dtype for name, codec in types.slots.items()}
    check_state(name, slots, parameter, wanted)
    for entry, dtype in types.beside.items():
        value, shape = held.get(entry), types.shape_beside(entry, parameter)
        if entry in (REMAINDER, MASTER):
            if value is not None:
                check_state(name, [(StateSlot(entry), value)], parameter, {entry: dtype})
            continue
        slot = entry.removesuffix(absmax_of(""))
        if slot not in {slot.name for slot, _ in slots} and value is None:
            continue
        came = f"{value.dtype} of shape {tuple(value.shape)}" if isinstance(value, Tensor) else "missing"
        device = value.device if isinstance(value, Tensor) else parameter.device
        if isinstance(value, Tensor) and not held_part(value).is_contiguous():
            came += f" and strides {tuple(value.stride())}"
        reason = lazy_reason(value) if isinstance(value, Tensor) else None
        if reason is not None:
            raise RuntimeError(f"state {entry!r} of {name} {reason}; assign value.resolve_neg()")
        if came != f"{dtype} of shape {tuple(shape)}" or device != parameter.device:
            raise RuntimeError(
                f"state {entry!r} of {name} is {came} on {device}, and {slot!r} in blocks needs {dtype} of shape "
                f"{tuple(shape)} on {parameter.device}, a number for each 256 elements: load a checkpoint made for "
                "this model, or give the parameter no state at all, with which it starts anew"
            )
        assert isinstance(value, Tensor)
        check_layout(name, entry, value, parameter)
