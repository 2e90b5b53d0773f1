"""Python's own numbers and truth values for numpy's, which sweeps and configuration files hand over."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any


def plain(value: Any) -> Any:
    """One of numpy's scalars, or its arrays without dimensions, as Python has it; anything else as it is."""
    is_scalar = type(value).__module__ == "numpy" and getattr(value, "shape", None) == () and hasattr(value, "item")
    return value.item() if is_scalar else value


def plain_number(value: Any) -> int | float | None:
    """The number that a value is; None for what is none: text, a tensor and a truth value."""
    value = plain(value)
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    return int(value) if isinstance(value, Integral) else float(value)


def plain_flag(value: Any) -> bool | None:
    """The truth value that a value is; None for what is none."""
    value = plain(value)
    return value if isinstance(value, bool) else None
