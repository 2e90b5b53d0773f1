"""What the keys of a param group may hold, and how a value is read: the numbers that torch takes, and flags."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from torchclip.rules.plain_numbers import is_not_real

LARGEST = sys.float_info.max

_OF_THE_RULE = ("maximize", "decoupled_weight_decay", "nesterov", "amsgrad", "centered", "smooth")
RUN_FLAGS = ("foreach", "fused", "differentiable", "capturable")
"""Keys of a param group that say how a step runs, and nothing of what it computes."""

FLAGS = frozenset((*_OF_THE_RULE, *RUN_FLAGS))
"""The keys that hold True or False, or None for no."""

_TEXT = (str, bytes, bytearray)


@dataclass(frozen=True)
class Check:
    """What a key may hold: a finite number within bounds, several in a sequence, or a flag.

    Args:
        phrase: what torch's errors call the number.
        wanted: what it must be, in words.
        least: the smallest that it may be.
        most: the largest that it may be.
        count: how many numbers the key stands for.
        several: what is wanted where those are not as many, in words.
        is_flag: True, False or None instead of a number.
        instead_of_none: what to do in place of None, in words; empty where that is as wrong as any other.
    """

    phrase: str
    wanted: str
    least: float = -LARGEST
    most: float = LARGEST
    count: int = 1
    several: str = ""
    is_flag: bool = False
    instead_of_none: str = ""

    def reason_against(self, key: str, value: Any) -> str | None:
        """Why a group cannot hold this value under ``key``; None where it can."""
        if self.is_flag and value is None:
            value = False
        if self.count == 1 and type(value) in (float, int, bool) and self._holds(value):
            return None
        text = _text_reason(key, self, value)
        if text is not None:
            return text
        if isinstance(value, Tensor) and self.count == 1 and value.numel() != 1 and self.phrase == "learning rate":
            shape = tuple(value.shape)
            return f"Tensor lr must be 1-element, got shape {shape}: give each param group a rate of its own"
        parts = parts_of(value, self.count)
        if parts is None:
            return f"Invalid {self.phrase}s: {value!r}; {self.several} is wanted, each {self.wanted}"
        for index, part in enumerate(parts):
            if not self._admits(part):
                place = "" if self.count == 1 else f" at index {index}"
                hint = f": {self.instead_of_none}" if part is None and self.instead_of_none else _not_one(part)
                return f"Invalid {self.phrase}{place}: {part}; it must be {self.wanted}{hint}"
        return None

    def is_plain(self, value: Any) -> bool:
        """Whether it is right, and as the rules take it: see :meth:`plain`."""
        if self.count == 1:
            kinds = (bool,) if self.is_flag else (float, int)
            return type(value) in kinds and self.least <= value <= self.most
        if type(value) is not tuple or len(value) != self.count:
            return False
        return all(type(part) in (float, int) and self.least <= part <= self.most for part in value)

    def _admits(self, value: Any) -> bool:
        if isinstance(value, Tensor):
            if value.numel() != 1 or value.is_complex():
                return False
            if not _is_readable(value):
                return True  # its range is the user's word
            value = value.detach().item()
        number = number_of(value)
        return number is not None and self._holds(number)

    def _holds(self, number: float) -> bool:
        return self.least <= number <= self.most and (not self.is_flag or number in (0, 1))

    def plain(self, value: Any) -> Any:
        """A value that is right as the rules take it: a flag, a number or a tensor, or a tuple of those."""
        if self.is_flag:
            return bool(value)
        if self.count == 1:
            return _plain_number(value)
        parts = parts_of(value, self.count)
        assert parts is not None, f"{self.phrase} was not checked"
        return tuple(map(_plain_number, parts))


def _plain_number(value: Any) -> float | Tensor | None:
    return value if type(value) in (float, int) or isinstance(value, Tensor) else number_of(value)


def number_of(value: Any) -> float | None:
    """The number that a value is, one of numpy's say; None for what is none: text of a number, dates, complex numbers.

    The compiled plans ask it of what is neither Python's number nor a tensor (``csrc/python_access.h``).
    """
    if isinstance(value, _TEXT) or is_not_real(value):
        return None
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def parts_of(value: Any, count: int) -> Sequence[Any] | None:
    """The values of a key that stands for ``count`` of them: of any sequence, or a tensor; None for another number."""
    if count == 1:
        return (value,)
    if isinstance(value, Tensor):
        return value.unbind() if value.shape == (count,) else None
    if isinstance(value, (*_TEXT, Mapping)) or not (hasattr(value, "__len__") and hasattr(value, "__getitem__")):
        return None
    try:
        parts = tuple(value)
    except TypeError:  # an array without dimensions
        return None
    return parts if len(parts) == count else None


def _text_reason(key: str, check: Check, value: Any) -> str | None:
    """What to say of text in the place of a number, as a YAML file has it; None where there is none."""
    if isinstance(value, Sequence) and not isinstance(value, _TEXT):
        reasons = (_text_reason(f"{key}[{index}]", check, part) for index, part in enumerate(value))
        return next((reason for reason in reasons if reason is not None), None)
    if not isinstance(value, _TEXT):
        return None
    reason = f"{key}={value!r} is text ({type(value).__name__}), and must be {check.wanted}"
    if check.is_flag:
        return f"{reason}: leave out the quotes; bool(text) is True whatever it says"
    try:
        number = float(value)
    except ValueError:
        return f"{reason}: give a number"
    return f"{reason}: write {key}={number:g} without quotes; YAML takes 1e-3 for text, and 1.0e-3 for a number"


def _is_readable(tensor: Tensor) -> bool:
    """Whether its number can be looked at without waiting for a GPU, and outside of a graph."""
    if torch.compiler.is_compiling() or torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        return False
    return tensor.device.type == "cpu"


def _not_one(value: Any) -> str:
    several = isinstance(value, (Sequence, Tensor)) and not isinstance(value, _TEXT)
    return f", and a {type(value).__name__} came: give each param group a number of its own" if several else ""


def non_negative(phrase: str) -> Check:
    """A check for a finite number of at least 0; ``phrase`` is what torch's errors call it."""
    return Check(phrase, "a finite number of at least 0", least=0.0)


def positive(phrase: str) -> Check:
    """A check for a finite number above 0."""
    return Check(phrase, "a finite number above 0", least=math.nextafter(0.0, 1.0))


def fraction(phrase: str) -> Check:
    """A check for a number in [0, 1]."""
    return Check(phrase, "between 0 and 1", least=0.0, most=1.0)


def decay_rate(phrase: str) -> Check:
    """A check for the weight of an exponential average, in [0, 1)."""
    return Check(phrase, "at least 0 and below 1", least=0.0, most=_BELOW_1)


def finite(phrase: str) -> Check:
    """A check for a finite number."""
    return Check(phrase, "a finite number")


_BELOW_1 = math.nextafter(1.0, 0.0)

FLAG = Check("flag", "True or False", is_flag=True)
ABSENT = Check("value", "0", least=0.0, most=0.0)
ABSENT_FLAG = Check("flag", "False", least=0.0, most=0.0, is_flag=True)
WEIGHT_DECAY = non_negative("weight_decay value")
MOMENTUM = non_negative("momentum value")
AVERAGE = decay_rate("momentum value")
EPS = non_negative("epsilon value")
TARGET_SPARSITY = replace(
    decay_rate("target_sparsity value"),
    instead_of_none="a group without a target has no such key; give the others theirs, and the constructor none",
)
LEARNING_RATE = non_negative("learning rate")
BETAS = Check("beta parameter", "at least 0 and below 1", 0.0, _BELOW_1, count=2, several="a pair (beta1, beta2)")
