"""Which tensors a step can write, and whose elements a fused one can reach through their memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def check_writable(name: str, parameter: Tensor, state: Mapping[str, Any]) -> None:
    """Raises when ``parameter`` or some of its state was made in inference mode: torch lets nobody write to it.

    Args:
        name: what errors call the parameter.
        parameter: one that a step is to write.
        state: what the optimizer holds for it.
    """
    remedy = "make a clone() of it outside torch.inference_mode()"
    if torch.compiler.is_compiling():
        return  # which refuses them itself
    if parameter.is_inference():
        raise RuntimeError(f"{name} was made in inference mode, and cannot be updated: {remedy}")
    for key, value in state.items():
        if isinstance(value, Tensor) and value.is_inference():
            raise RuntimeError(f"state {key!r} of {name} was made in inference mode, and cannot be updated: {remedy}")


def check_reachable(name: str, parameter: Tensor, state: Mapping[str, Any]) -> None:
    """Raises when a fused step cannot reach the elements of ``parameter``, its gradient or its state.

    Args:
        name: what errors call the parameter.
        parameter: one with a gradient.
        state: what the optimizer holds for it.
    """
    tensors = {name: parameter, f"the gradient of {name}": parameter.grad}
    tensors |= {f"state {key!r} of {name}": value for key, value in state.items()}
    for what, tensor in tensors.items():
        reason = unreachable_reason(tensor) if isinstance(tensor, Tensor) else None
        if reason is not None:
            raise RuntimeError(f"{what} {reason}")


def unreachable_reason(tensor: Tensor) -> str | None:
    """Why the elements of a tensor cannot be reached through its memory; None where they can."""
    if stands_for_another(tensor):
        return (
            "is what a transform of torch.func (grad, vmap, jvp, functionalize) sees of a tensor, whose elements a "
            "fused step cannot reach: call step() outside the transform, with gradients that it has returned, or "
            "choose backend='reference'"
        )
    if tensor._is_zerotensor():
        return "is a tensor of zeros without memory: give it some with clone()"
    if tensor.layout is torch.strided and tensor.device.type != "meta" and tensor.numel() > 0:
        try:
            has_memory = tensor.untyped_storage().size() > 0
        except (NotImplementedError, RuntimeError):
            return None  # a wrapper around others, which is refused elsewhere
        if not has_memory:
            return "has no memory: its storage was resized to 0, by FSDP say; give it memory before step()"
    return None


def refuse_transform() -> None:
    """Raises within a transform of torch.func, where every tensor that is made is a wrapper."""
    if torch._C._functorch.peek_interpreter_stack() is not None:
        raise RuntimeError(
            "a fused step cannot be taken within a transform of torch.func (grad, vmap, jvp, functionalize): call "
            "step() outside, or choose backend='reference'"
        )


def stands_for_another(tensor: Tensor) -> bool:
    """Whether it is a wrapper that a transform of torch.func hands to the function that it transforms."""
    if torch.compiler.is_compiling():
        return False
    return torch._C._functorch.is_functorch_wrapped_tensor(tensor) or torch._is_functional_tensor(tensor)
