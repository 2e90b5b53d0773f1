"""Python's own numbers and truth values for numpy's, which sweeps and configuration files hand over."""

from __future__ import annotations

import sys
from numbers import Integral, Real
from typing import Any


def plain(value: Any) -> Any:
    """One of numpy's numbers or truth values, or its array of one without dimensions, as Python has it; anything else
    as it is, dates and durations too."""
    if type(value).__module__ != "numpy" or getattr(value, "shape", None) != () or value.dtype.kind not in "biufc":
        return value
    number = value.item()
    if type(number).__module__ != "numpy":
        return number
    return complex(number) if value.dtype.kind == "c" else float(number)  # of a long double, which Python has not


def is_array(value: Any) -> bool:
    """Whether it is one of numpy's arrays, which can be written to, and no scalar."""
    return type(value).__module__ == "numpy" and hasattr(value, "__setitem__")


def is_not_real(value: Any) -> bool:
    """Whether it is numpy's and no real number, yet converts to one: a date and a duration to that of their units, a
    complex number to its real part, text to what it says."""
    kind = getattr(getattr(value, "dtype", None), "kind", None)
    if kind == "O" and getattr(value, "shape", None) == ():  # of any object
        value = value.item()
        return not isinstance(value, Real) or is_not_real(value)
    return kind in ("m", "M", "c", "U", "S", "T")


def plain_number(value: Any) -> int | float | None:
    """The number that a value is; None for what is none: text, a tensor, a truth value, a date and a duration."""
    value = plain(value)
    if isinstance(value, bool) or not isinstance(value, Real) or is_not_real(value):
        return None
    return int(value) if isinstance(value, Integral) else float(value)


def check_size(name: str, number: float) -> None:
    """Raises ValueError for an integer beyond all floats."""
    if isinstance(number, int) and abs(number) > sys.float_info.max:
        raise ValueError(f"{name} is an integer of {number.bit_length()} bits, which is beyond all floats")


def plain_flag(value: Any) -> bool | None:
    """The truth value that a value is; None for what is none."""
    value = plain(value)
    return value if isinstance(value, bool) else None
