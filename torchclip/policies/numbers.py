"""Checks of the numbers that a policy is made of."""

from __future__ import annotations

import math
from typing import Any


def check_number(
    name: str,
    value: Any,
    *,
    least: float = -math.inf,
    above: float = -math.inf,
    most: float = math.inf,
    below: float = math.inf,
) -> None:
    """Raises for a field of a policy that is no finite number within its bounds.

    Raises:
        TypeError: when it is no number.
        ValueError: when it is not finite, or out of bounds.
    """
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"{name}={value!r} must be a number, got {type(value).__name__}")
    bounds = [
        f"{relation} {bound:g}"
        for relation, bound in (("at least", least), ("above", above), ("at most", most), ("below", below))
        if math.isfinite(bound)
    ]
    if not (math.isfinite(value) and least <= value <= most and above < value < below):
        wanted = bounds if math.isfinite(value) or not bounds else ["finite", *bounds]
        raise ValueError(f"Invalid {name}: {value}; it must be {' and '.join(wanted) or 'a finite number'}")


def check_flag(name: str, value: Any) -> None:
    """Raises TypeError for a field of a policy that is neither True nor False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name}={value!r} must be True or False")
