"""Numbers of state as checkpoints and users hand them in: converted where that is exact, else refused by name."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torchclip.rules.plain_numbers import check_size, plain_number


@dataclass(frozen=True)
class Wanted:
    """Which numbers will do.

    Args:
        words: what an error calls them.
        holds: whether a number, or each of a tensor, is one of them; False for NaN.
    """

    words: str
    holds: Callable[[Any], Any]


COUNT = Wanted("a whole number from 0 to 2**53", lambda one: (one >= 0) & (one <= 2**53) & (one == one // 1))
NON_NEGATIVE = Wanted("a finite number of at least 0", lambda one: (one >= 0) & (one < math.inf))
POSITIVE = Wanted("a finite number above 0", lambda one: (one > 0) & (one < math.inf))
FRACTION = Wanted("a number from 0 to 1", lambda one: (one >= 0) & (one <= 1))

DTYPES = (torch.float32, torch.float64)
"""Those in which a number of state is kept."""


def is_kept_number(value: Any) -> bool:
    """Whether a step takes it as it is: one number, of a type in which numbers of state are kept."""
    if not isinstance(value, Tensor) or value.dtype not in DTYPES or value.is_meta:
        return False
    return value.numel() == 1 and value.layout is torch.strided


def exact_number(name: str, value: Any, wanted: Wanted, dtype: torch.dtype) -> Tensor:
    """``value`` as a 0-dim tensor of its own memory, on the device where it is.

    Args:
        name: what errors call it.
        value: a number, Python's or numpy's, or a tensor of one element.
        wanted: which numbers will do.
        dtype: of the result; float64 where the number would be rounded, or has that type already.

    Raises:
        TypeError: when it is no real number.
        ValueError: for more or less than one number, one that will not do, and one that no type holds exactly.
    """
    number = value if isinstance(value, Tensor) else plain_number(value)
    if number is None:
        raise TypeError(f"{name} is {type(value).__name__}, and {wanted.words} is wanted")
    if not isinstance(number, Tensor):
        check_size(name, number)
    else:
        if number.layout is not torch.strided or number.is_complex() or number.is_meta:
            what = "on the meta device" if number.is_meta else f"{number.dtype} of layout {number.layout}"
            raise TypeError(f"{name} is {what}, and {wanted.words} is wanted")
        if number.numel() != 1:
            raise ValueError(f"{name} has shape {tuple(number.shape)}, and {wanted.words} is wanted")
        number = number.detach().resolve_neg().reshape(())
    plain = number.item() if isinstance(number, Tensor) else number
    if not wanted.holds(plain):
        raise ValueError(f"{name} is {plain}; it must be {wanted.words}")
    is_double = isinstance(number, Tensor) and number.dtype is torch.float64
    for kept in (torch.float64,) if is_double else (dtype, torch.float64):
        held = number.to(kept, copy=True) if isinstance(number, Tensor) else torch.tensor(float(number), dtype=kept)
        if held.item() == plain:
            return held
    raise ValueError(f"{name} is {plain}, which float64 does not hold exactly")
