"""The numbers of a param group, re-read at every step because schedulers write there, where there is no extension.

The rules are those of ``csrc/group_numbers.cpp``.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from torchclip.backends.triton.address_table import type_name
from torchclip.backends.triton.kinds import is_number, is_plain, same_objects
from torchclip.policies.group_clip import ARGUMENTS, KEY
from torchclip.rules.hyperparameters import number_of, parts_of
from torchclip.rules.rule_spec import RuleSpec
from torchclip.state.group_values import PIPELINE_KEYS, Key

ABSENT = object()


@dataclass
class Group:
    """One param group: its dict, its parameters and the numbers read from it."""

    dict: Mapping[str, Any]
    params: list[Tensor]
    index: int
    numbers: array[float] = field(default_factory=lambda: array("d"))  # lr, then the rule's own
    pipeline: array[float] = field(default_factory=lambda: array("d"))  # of PIPELINE_KEYS without lr
    lr: Tensor | None = None  # on the device; NaN in the numbers then
    used_slots: int = 0
    clip: Any = ABSENT  # the group's own policy as the plan was configured for it
    keys: int = 0  # of the dict, when they were last looked at
    seen: list[Any] | None = None  # the values that were read, where nobody can change them without writing others

    def remember_arguments(self) -> None:
        """The plan is configured for what stands there."""
        self.clip, self.keys = self.dict.get(KEY, ABSENT), len(self.dict)

    def arguments_changed(self) -> bool:
        """Whether there is another clip policy, or a new key that belongs to the optimizer."""
        if self.dict.get(KEY, ABSENT) is not self.clip:
            return True
        if len(self.dict) != self.keys:
            if any(key in self.dict for key in (*ARGUMENTS, "scope")):
                return True
            self.keys = len(self.dict)
        return False

    def read(self, keys: Sequence[Key], spec: RuleSpec, device: str) -> None:
        """Re-reads the numbers, if one may have changed.

        Raises:
            RuntimeError: for a number on the device that is not the lr, or an lr that is no number.
            ValueError: for a key that is missing, or does not hold what it must.
        """
        values = [self.dict.get(key.name, _MISSING) for key in keys]
        if self.seen is not None and same_objects(values, self.seen):
            return
        self.seen, self.lr = None, None
        numbers: list[list[float]] = []
        for key, value in zip(keys, values, strict=True):
            if key.name == "lr" and isinstance(value, Tensor) and value.device.type == device:
                check_lr(value, device)
                self.lr = value
                numbers.append([float("nan")])
                continue
            read = _read(key, value)
            if read is None:
                raise ValueError(f"param group {self.index} has no usable {key.name!r}")
            numbers.append(read)
        if spec.conflict is not None and spec.conflict(self.dict) is not None:
            raise ValueError(f"param group {self.index} holds values that contradict one another")
        (lr, *pipeline), own = numbers[: len(PIPELINE_KEYS)], numbers[len(PIPELINE_KEYS) :]
        self.pipeline = array("d", [number for (number,) in pipeline])
        self.numbers = array("d", [*lr, *(number for read in own[: len(spec.hyperparameters)] for number in read)])
        self.seen = values if all(map(_is_constant, values)) else None


_MISSING: Any = object()


def check_lr(lr: Tensor, device: str) -> None:
    """Raises for a tensor lr that is not one float32 or float64 number."""
    if not (is_plain(lr, device) and is_number(lr, 1)):
        raise RuntimeError(
            f"lr is a tensor of {type_name(lr)} of shape {list(lr.shape)}, where one float32 or float64 number is "
            "wanted: make it torch.tensor(lr, device=...)"
        )


def _read(key: Key, value: Any) -> list[float] | None:
    """The number or numbers that ``value`` holds; None where they are not what the key must hold.

    Raises:
        RuntimeError: for one on a device, which would have to be waited for.
    """
    if value is _MISSING:
        return None if key.is_required else [0.0] * key.numbers
    if isinstance(value, Tensor) and value.device.type != "cpu":
        raise RuntimeError(
            f"{key.name} is a tensor on {value.device}, and of a param group's numbers only lr may be one: make it a "
            "number, or a tensor on the CPU"
        )
    if key.is_flag and value is None:
        return [0.0]
    parts = parts_of(value, key.numbers)
    numbers = [] if parts is None else [number for number in map(_number, parts) if number is not None]
    is_right = len(numbers) == key.numbers and all(key.least <= number <= key.most for number in numbers)
    if key.is_flag and not all(number in (0, 1) for number in numbers):
        return None
    return numbers if is_right else None


def _number(part: Any) -> float | None:
    if isinstance(part, Tensor):
        return float(part.item()) if part.numel() == 1 and not part.is_complex() else None
    return number_of(part)


def _is_constant(value: Any) -> bool:
    if type(value) is tuple:
        return all(map(_is_constant, value))
    return value is None or value is _MISSING or isinstance(value, (float, int))
