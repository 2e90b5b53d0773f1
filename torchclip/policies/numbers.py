"""Checks of the numbers that a policy is made of, which are kept as Python's own."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from torchclip.rules.plain_numbers import check_size, is_array, plain_flag, plain_number


def checked_number(
    name: str,
    value: Any,
    *,
    least: float = -math.inf,
    above: float = -math.inf,
    most: float = math.inf,
    below: float = math.inf,
    whole: str = "",
) -> int | float:
    """A finite number within its bounds; an integer where ``whole`` says what it counts.

    Raises:
        TypeError: when it is no number.
        ValueError: when it is not finite, or out of bounds.
    """
    number = plain_number(value)
    if whole and not isinstance(number, int):
        raise TypeError(f"{name}={value!r} must be an integer, {whole}")
    if number is None:
        raise _no_number(name, value)
    check_size(name, number)
    bounds = [
        f"{relation} {bound:g}"
        for relation, bound in (("at least", least), ("above", above), ("at most", most), ("below", below))
        if math.isfinite(bound)
    ]
    if not (math.isfinite(number) and least <= number <= most and above < number < below):
        wanted = bounds if math.isfinite(number) or not bounds else ["finite", *bounds]
        raise ValueError(f"Invalid {name}: {number}; it must be {' and '.join(wanted) or 'a finite number'}")
    # Tensors take no integers beyond 64 bits.
    return number if whole or isinstance(number, float) or abs(number) <= 2**53 else float(number)


def checked_bound(name: str, value: Any, *, zero: bool) -> float:
    """A number that can bound a norm, infinity included; 0 only where ``zero`` allows it.

    Raises:
        TypeError: when it is no number.
        ValueError: when it is no bound.
    """
    number = plain_number(value)
    if number is None:
        raise _no_number(name, value)
    check_size(name, number)
    if math.isnan(number) or number < 0 or (number == 0 and not zero):
        raise ValueError(f"Invalid {name}: {number}; it is a bound and must be {'at least' if zero else 'above'} 0")
    return float(number)


def checked_flag(name: str, value: Any) -> bool:
    """True or False.

    Raises:
        TypeError: when it is neither.
    """
    flag = plain_flag(value)
    if flag is None:
        raise TypeError(f"{name}={value!r} must be True or False")
    return flag


def set_number(policy: object, name: str, **bounds: Any) -> None:
    """Checks a field of a policy, a frozen dataclass, as :func:`checked_number`, and keeps Python's number."""
    object.__setattr__(policy, name, checked_number(name, getattr(policy, name), **bounds))


def set_bound(policy: object, name: str, *, zero: bool) -> None:
    """Checks a field of a policy as :func:`checked_bound`, and keeps Python's number."""
    object.__setattr__(policy, name, checked_bound(name, getattr(policy, name), zero=zero))


def set_flag(policy: object, name: str) -> None:
    """Checks a field of a policy as :func:`checked_flag`, and keeps Python's truth value."""
    object.__setattr__(policy, name, checked_flag(name, getattr(policy, name)))


def _no_number(name: str, value: Any) -> TypeError:
    remedy = ": hand over its .item()" if _holds_one(value) else ""
    return TypeError(f"{name}={value!r} must be a number, got {type(value).__name__}{remedy}")


def _holds_one(value: Any) -> bool:
    """Whether it is a tensor or an array of one number."""
    if isinstance(value, Tensor):
        return value.numel() == 1 and not value.is_complex() and value.dtype is not torch.bool
    return is_array(value) and value.size == 1 and plain_number(value.reshape(())) is not None
