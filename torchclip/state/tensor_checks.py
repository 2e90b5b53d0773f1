"""Checks of tensors. An error names the tensor, what came, what was wanted, and the remedy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from torchclip.rules.rule_spec import Extent, StateSlot
from torchclip.state.sharded import is_sharded, layout_reason, placements_of_rows
from torchclip.state.steppable import can_step

FLOAT_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)

COMPLEX_DTYPES = (torch.complex64, torch.complex128)
"""Updated as their real view: see :mod:`torchclip.state.real_view`."""

DTYPES = (*FLOAT_DTYPES, *COMPLEX_DTYPES)
"""Those that a parameter may have."""


def describe_parameter(param_groups: Sequence[Mapping[str, Any]], group_index: int, index: int) -> str:
    """How an error calls a parameter: by its name where the optimizer was given names, else by its place."""
    group = param_groups[group_index]
    shape = tuple(group["params"][index].shape)
    if "param_names" in group:
        return f"parameter {group['param_names'][index]!r} of shape {shape}"
    return f"parameter {index} of param group {group_index}, of shape {shape}"


def check_parameter(name: str, parameter: Tensor, *, takes_complex: bool) -> None:
    """Raises when no backend can update ``parameter``; ``takes_complex`` says whether its rule takes complex ones."""
    if parameter.dtype not in DTYPES:
        raise TypeError(
            f"{name} is {parameter.dtype}; an optimizer needs float32, float64, bfloat16, float16, complex64 or "
            "complex128 parameters: cast it, leave it out of the optimizer, or register it as a buffer"
        )
    if parameter.is_complex() and not takes_complex:
        raise TypeError(
            f"{name} is {parameter.dtype}, and of the optimizers here all but GRDA, LinBreg, AdaBreg and AdaGradNorm "
            "take complex parameters: choose another, or give this one real tensors and build the complex one with "
            "torch.view_as_complex in forward()"
        )
    if parameter.layout is not torch.strided:
        raise TypeError(f"{name} is sparse ({parameter.layout}): make the parameter of tensor.to_dense()")
    reason = lazy_reason(parameter)
    if reason is not None:
        raise ValueError(f"{name} {reason}; make the parameter of tensor.resolve_conj().resolve_neg()")
    if may_overlap(parameter):
        raise ValueError(
            f"{name} has strides {tuple(parameter.stride())}, as an expanded tensor has: several of its elements share "
            "one place in memory, and updating one would change the others; pass a clone(), or the tensor it was "
            "expanded from"
        )


def lazy_reason(tensor: Tensor) -> str | None:
    """What is wrong with a tensor whose memory holds other numbers than its elements; None for every other."""
    if torch.compiler.is_compiling():
        return None  # a graph has no such bits: torch itself refuses what it would have to view as real
    if tensor.is_conj():
        return "is lazily conjugated: its memory holds the conjugates of its elements, which a step would write over"
    if tensor.is_neg():
        return "is lazily negated: its memory holds the negatives of its elements, which a step would write over"
    return None


def may_overlap(tensor: Tensor) -> bool:
    """Whether two elements may share a place in memory, going by the strides from the smallest up."""
    if tensor.is_contiguous():  # as every tensor without elements
        return False
    reach = 0
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1 and stride <= reach:
            return True
        reach += stride * (size - 1)
    return False


def check_new_parameters(
    params: Sequence[Any],
    param_groups: Sequence[Mapping[str, Any]],
    *,
    differentiable: bool,
    takes_complex: bool,
) -> None:
    """Raises for what is no parameter, stands in the new group twice or in another one, or no backend can update.

    Args:
        params: of the new group, tensors or ``(name, tensor)`` pairs.
        param_groups: those that there are.
        differentiable: whether autograd goes through the step, so that results of other operations can be optimized.
        takes_complex: whether the rule takes complex parameters.
    """
    group_index = len(param_groups)
    held = {
        id(parameter): (number, position)
        for number, group in enumerate(param_groups)
        for position, parameter in enumerate(group["params"])
    }
    seen: set[int] = set()
    for index, entry in enumerate(params):
        parameter = entry[1] if isinstance(entry, tuple) else entry
        name = (
            f"parameter {entry[0]!r}" if isinstance(entry, tuple) else f"parameter {index} of param group {group_index}"
        )
        if not isinstance(parameter, Tensor):
            hint = ": give it module.parameters()" if isinstance(parameter, torch.nn.Module) else ""
            raise TypeError(f"optimizer can only optimize Tensors, but {name} is {torch.typename(parameter)}{hint}")
        name += f" of shape {tuple(parameter.shape)}"
        if not (differentiable or parameter.is_leaf or parameter.retains_grad):
            raise ValueError(
                f"can't optimize a non-leaf Tensor: {name} is the result of other operations; pass what they start from"
            )
        if id(parameter) in held:
            raise ValueError(
                f"some parameters appear in more than one parameter group: {name} is also "
                f"{describe_parameter(param_groups, *held[id(parameter)])}"
            )
        if id(parameter) in seen:
            raise ValueError(f"{name} is a duplicate: it stands twice in the group; pass each parameter once")
        seen.add(id(parameter))
        if can_step(parameter):  # others are checked when they have a gradient
            check_parameter(name, parameter, takes_complex=takes_complex)


def check_gradient(name: str, parameter: Tensor, dtypes: Sequence[torch.dtype] = ()) -> None:
    """Raises when the gradient of ``parameter`` is not a dense tensor of its shape, type and device.

    Args:
        name: what errors call the parameter.
        parameter: with its gradient.
        dtypes: other types that the gradient may have, which torch lets ``.grad`` have where the parameter's
            ``grad_dtype`` says so.
    """
    gradient = parameter.grad
    assert gradient is not None
    if gradient.layout is not torch.strided:
        raise RuntimeError(
            f"{name} has a sparse gradient ({gradient.layout}), and torchclip updates dense gradients only: "
            "use nn.Embedding(sparse=False), or give this parameter to torch.optim.SparseAdam"
        )
    for what, came, wanted in (
        ("shape", tuple(gradient.shape), tuple(parameter.shape)),
        ("device", gradient.device, parameter.device),
        ("dtype", gradient.dtype, gradient.dtype if gradient.dtype in dtypes else parameter.dtype),
    ):
        if came != wanted:
            others = [str(dtype) for dtype in dtypes if dtype is not parameter.dtype] if what == "dtype" else []
            also = f", and {' or '.join(others)} would be taken" if others else ""
            raise RuntimeError(
                f"{name} has a gradient of {what} {came} where its own {what} is {wanted}{also}: clear it with "
                "zero_grad() and run backward again after moving or casting the model"
            )
    reason = lazy_reason(gradient)
    if reason is not None:
        raise RuntimeError(
            f"the gradient of {name} {reason}; say p.grad = p.grad.resolve_conj().resolve_neg() before step(), which "
            "autograd leaves to you where forward() has conjugated the parameter"
        )


def check_state(
    name: str,
    slots: Sequence[tuple[StateSlot, Any]],
    parameter: Tensor,
    types: Mapping[str, torch.dtype] | None = None,
) -> None:
    """Raises when state tensors, from a checkpoint say, do not fit their parameter or one another.

    Args:
        name: what errors call the parameter.
        slots: those that the rule uses and that are there, each with its state tensor.
        parameter: whose state it is.
        types: those that a precision policy holds slots in, by name.
    """
    full = torch.promote_types(parameter.dtype, torch.float32)
    dtypes: dict[str, torch.dtype] = {}
    for slot, value in slots:
        if not isinstance(value, Tensor):
            raise TypeError(
                f"state {slot.name!r} of {name} is {type(value).__name__}, and a tensor is wanted: load a checkpoint "
                "again"
            )
        shape = slot.extent.shape(parameter)
        # Half-precision parameters may have float32 state; otherwise the state is of the parameter's type.
        allowed = (full,) if slot.has_own_type else (parameter.dtype, full)
        if types is not None and slot.name in types:
            allowed = (types[slot.name],)
        elif slot.extent.is_apart(parameter):
            allowed = (torch.float32, torch.float64)  # no pass goes over these, which are read one by one
        elif not slot.has_own_type:
            dtypes[slot.name] = value.dtype
        different = []
        if value.shape != shape:
            different.append(f"is of shape {tuple(value.shape)} where {tuple(shape)} is wanted")
        if value.device != parameter.device:
            different.append(f"is on {value.device} where {parameter.device} is wanted")
        if value.dtype not in allowed:
            wanted = " or ".join(map(str, dict.fromkeys(allowed)))
            different.append(f"is {value.dtype} where {wanted} is wanted")
        if different:
            raise RuntimeError(
                f"state {slot.name!r} of {name} {' and '.join(different)}: move and cast the state together with the "
                "parameter, or load a checkpoint made for this model and this optimizer"
            )
        check_layout(name, slot.name, value, parameter, slot.extent)
        if may_overlap(value):
            raise RuntimeError(
                f"state {slot.name!r} of {name} has strides {tuple(value.stride())}, as an expanded tensor has, and "
                "cannot be written to; assign a clone()"
            )
        reason = lazy_reason(value)
        if reason is not None:
            raise RuntimeError(f"state {slot.name!r} of {name} {reason}; assign value.resolve_conj().resolve_neg()")
    if len(set(dtypes.values())) > 1:
        raise RuntimeError(f"the state of {name} is of several types, {dtypes}; cast it to one of them")


def check_layout(name: str, entry: str, value: Tensor, parameter: Tensor, extent: Extent = Extent.ELEMENT) -> None:
    """Raises when a state tensor is not laid out over processes as its parameter is.

    Args:
        name: what errors call the parameter.
        entry: the state tensor's name.
        value: the state tensor.
        parameter: whose state it is.
        extent: how many numbers it holds.
    """
    sharded: Any = parameter
    placements = sharded.placements if is_sharded(parameter) else None
    if placements is not None and extent.shape(parameter) != parameter.shape:
        placements = placements_of_rows(parameter) if extent is Extent.ROW else None
    reason = layout_reason(value, parameter, placements)
    if reason is not None:
        raise RuntimeError(
            f"state {entry!r} of {name} {reason}: load it with "
            "torch.distributed.checkpoint.state_dict.set_optimizer_state_dict, which lays state out as parameters are"
        )
