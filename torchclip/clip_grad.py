"""Fused stand-ins for :mod:`torch.nn.utils`' gradient clipping: same arguments, same result."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from types import GeneratorType
from typing import Any

import torch
from torch import Tensor

from torchclip.backends import native
from torchclip.distributed.processes import GroupOrMesh, is_running, of, outside_graphs
from torchclip.distributed.total_norm import total_norm
from torchclip.policies.numbers import checked_bound
from torchclip.rules.norms import HARD_EPS
from torchclip.state.sharded import is_sharded, waited_part
from torchclip.state.tensor_checks import lazy_reason


def _as_list(tensors: Tensor | Iterable[Tensor]) -> list[Tensor]:
    return [tensors] if isinstance(tensors, Tensor) else list(tensors)


def _number(name: str, value: Any, remedy: str) -> float:
    """What torch takes for a number: all that float() does."""
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{name}={value!r} must be a number, got {type(value).__name__}: {remedy}") from None


def _is_fused(tensors: list[Tensor], norm_type: float) -> bool:
    if torch.compiler.is_compiling():
        return False  # the compiler fuses torch's own, and does not look into ours
    if native.NATIVE is None or len(tensors) == 0 or norm_type <= 0 or not native.NATIVE.serves_gradients(tensors):
        return False
    # The parts of complex numbers have their norm of order 2, and of no other.
    return norm_type == 2 or not any(tensor.is_complex() for tensor in tensors)


def get_total_norm(
    tensors: Tensor | Iterable[Tensor],
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
    *,
    norm_group: GroupOrMesh | None = None,
) -> Tensor:
    r"""The norm of all elements of ``tensors`` together, in one pass.

    .. math:: \Big(\sum_i \lvert x_i \rvert^p\Big)^{1/p}

    As :func:`torch.nn.utils.get_total_norm`, except that a float16 or bfloat16 norm is returned as float32: a float16
    norm above 65504 is a number here.

    Args:
        tensors: tensors of any shapes and floating-point or complex types.
        norm_type: p, infinity included. Above 0 it is fused for CPU tensors; the rest goes through torch.
        error_if_nonfinite: raise when the norm is infinite or NaN.
        foreach: handed to torch where torch computes the norm.
        norm_group: the processes over which the tensors are distinct, where nothing else says so. DTensors say it
            themselves, on any mixture of meshes, beside tensors of which every process has a copy; every process that
            has a part takes part.

    Returns:
        A 0-dim tensor, no DTensor.

    Raises:
        RuntimeError: when ``error_if_nonfinite`` and the norm is not finite.
        TypeError: when ``norm_type`` is no number.

    Example:
        >>> get_total_norm([torch.tensor([3.0]), torch.tensor([4.0])])
        tensor(5.)

    Source: :func:`torch.nn.utils.get_total_norm`.
    """
    tensors = _as_list(tensors)
    norm_type = _number("norm_type", norm_type, "2.0 is the Euclidean norm")
    if _is_distributed(tensors, norm_group):
        return _distributed_norm(tensors, norm_type, error_if_nonfinite, norm_group)
    return _local_norm(tensors, norm_type, error_if_nonfinite, foreach)


def _local_norm(tensors: list[Tensor], norm_type: float, error_if_nonfinite: bool, foreach: bool | None) -> Tensor:
    """As :func:`get_total_norm`, of tensors that this process holds whole."""
    if not _is_fused(tensors, norm_type):
        # torch has no infinity norm of an empty tensor, and overflows in half precision.
        filled = [tensor for tensor in tensors if tensor.numel() > 0]
        upcast = [tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor for tensor in filled]
        return torch.nn.utils.get_total_norm(upcast, norm_type, error_if_nonfinite, foreach)
    assert native.NATIVE is not None
    norm = native.NATIVE.total_norm(tensors, norm_type)
    _check_finite(norm, norm_type, error_if_nonfinite)
    return torch.tensor(norm, dtype=_norm_dtype(tensors), device="cpu")


def _norm_dtype(tensors: list[Tensor]) -> torch.dtype:
    is_double = any(tensor.dtype in (torch.float64, torch.complex128) for tensor in tensors)
    return torch.float64 if is_double else torch.float32


def _check_finite(norm: float | Tensor, norm_type: float, error_if_nonfinite: bool) -> None:
    if error_if_nonfinite and not math.isfinite(norm):
        raise RuntimeError(
            f"The total norm of order {norm_type} for gradients from `parameters` is non-finite, so it cannot be "
            "clipped. To disable this error and scale the gradients by the non-finite norm anyway, set "
            "`error_if_nonfinite=False`"
        )


def _is_distributed(tensors: list[Tensor], norm_group: GroupOrMesh | None) -> bool:
    """Whether other processes may hold parts of the tensors, or others in their place."""
    if norm_group is not None:
        return True
    # In a graph torch's own goes through DTensor.
    return not torch.compiler.is_compiling() and any(map(is_sharded, tensors))


@outside_graphs
def _distributed_norm(
    tensors: Sequence[Tensor | None],
    norm_type: float,
    error_if_nonfinite: bool,
    norm_group: GroupOrMesh | None,
    parameters: list[Tensor] | None = None,
) -> Tensor:
    """As :func:`total_norm`, whose arguments these are."""
    given = None if norm_group is None else of(norm_group, "norm_group")
    norm = total_norm(tensors, norm_type, given if is_running() else None, parameters)
    _check_finite(norm, norm_type, error_if_nonfinite)
    return norm.to(_norm_dtype([tensor for tensor in tensors if tensor is not None] or parameters or []))


def _scale(gradients: list[Tensor], factor: Tensor) -> None:
    for gradient in map(waited_part, gradients):
        gradient.mul_(factor.to(gradient.device))


@torch.no_grad()
def clip_grad_norm_(
    parameters: Tensor | Iterable[Tensor],
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
    *,
    norm_group: GroupOrMesh | None = None,
) -> Tensor:
    r"""Scales the gradients of ``parameters`` in place, so that their joint norm is at most ``max_norm``.

    .. math:: g \leftarrow g \cdot \min\left(1, \frac{\text{max\_norm}}{\lVert g \rVert_p + 10^{-6}}\right)

    As :func:`torch.nn.utils.clip_grad_norm_`, in two passes over all tensors, or one when nothing is clipped. An
    optimizer with ``clip=`` does without this function and never writes the gradients.

    Args:
        parameters: tensors whose ``.grad`` is clipped; those without one are passed over. Every process that has a
            part of DTensors takes part, without a gradient too.
        max_norm: the bound.
        norm_type: the order p of the norm.
        error_if_nonfinite: raise, with the gradients untouched, when the norm is infinite or NaN.
        foreach: handed to torch where torch does the work.
        norm_group: as for :func:`get_total_norm`.

    Returns:
        The norm before clipping, a 0-dim tensor.

    Raises:
        RuntimeError: when ``error_if_nonfinite`` and the norm is not finite.
        ValueError: when ``max_norm`` is negative or NaN.
        TypeError: when ``max_norm`` or ``norm_type`` is no number.

    Warns:
        UserWarning: for a generator that yields nothing, as one that was used up does.

    Example:
        >>> weight = torch.nn.Parameter(torch.zeros(2))
        >>> weight.grad = torch.tensor([3.0, 4.0])
        >>> clip_grad_norm_(weight, 1.0), weight.grad
        (tensor(5.), tensor([0.6000, 0.8000]))

    Source: :func:`torch.nn.utils.clip_grad_norm_`.
    """
    max_norm = checked_bound("max_norm", _number("max_norm", max_norm, "math.inf clips nothing"), zero=True)
    is_generator = isinstance(parameters, GeneratorType)
    parameters = _as_list(parameters)
    if is_generator and len(parameters) == 0:
        warnings.warn("`parameters` is an empty generator, no gradient clipping will occur.", stacklevel=3)
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm_type = _number("norm_type", norm_type, "2.0 is the Euclidean norm")
    if _is_distributed([*parameters, *gradients], norm_group):
        taking_part = [parameter for parameter in parameters if parameter.requires_grad or parameter.grad is not None]
        each = [parameter.grad for parameter in taking_part]
        norm = _distributed_norm(each, norm_type, error_if_nonfinite, norm_group, taking_part)
        _scale(gradients, torch.clamp(max_norm / (norm + HARD_EPS), max=1.0))
        return norm
    norm = _local_norm(gradients, norm_type, error_if_nonfinite, foreach)
    if not _is_fused(gradients, norm_type):
        if all(lazy_reason(gradient) is None for gradient in gradients):  # a lazy one foreach cannot write
            torch.nn.utils.clip_grads_with_norm_(parameters, max_norm, norm, foreach)
            return norm
        _scale(gradients, torch.clamp(max_norm / (norm + HARD_EPS), max=1.0))
        return norm
    assert native.NATIVE is not None
    scale = max_norm / (float(norm) + HARD_EPS)
    if not scale >= 1.0:  # a NaN norm reaches the gradients, as it does in torch
        native.NATIVE.scale_gradients(gradients, scale)
    return norm
