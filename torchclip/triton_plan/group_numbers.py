"""The numbers of a param group, re-read at every step because schedulers write there, where there is no extension."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from torchclip.group_clip import ARGUMENTS, KEY
from torchclip.triton_plan.address_table import type_name
from torchclip.triton_plan.kinds import is_number, is_plain

ABSENT = object()

PIPELINE_KEYS = ("weight_decay", "decoupled_weight_decay", "maximize")


@dataclass
class Group:
    """One param group: its dict, its parameters and the numbers read from it."""

    dict: Mapping[str, Any]
    params: list[Tensor]
    numbers: array[float] = field(default_factory=lambda: array("d"))  # lr, then the rule's own
    pipeline: array[float] = field(default_factory=lambda: array("d"))  # of PIPELINE_KEYS
    lr: Tensor | None = None  # on the device; NaN in the numbers then
    used_slots: int = 0
    clip: Any = ABSENT  # the group's own policy as the plan was configured for it
    keys: int = 0  # of the dict, when they were last looked at

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

    def read(self, hyperparameters: Sequence[str], device: str) -> None:
        """Re-reads the numbers.

        Raises:
            RuntimeError: for a number on the device that is not the lr, or an lr that is no number.
            KeyError: when a number of the rule is missing.
        """
        self.numbers, self.pipeline = array("d"), array("d")
        lr = self.dict.get("lr", 0.0)
        self.lr = lr if isinstance(lr, Tensor) and lr.device.type == device else None
        if self.lr is None:
            _append("lr", lr, self.numbers)
        else:
            check_lr(self.lr, device)
            self.numbers.append(float("nan"))
        for key in PIPELINE_KEYS:
            _append(key, self.dict.get(key, 0.0), self.pipeline)
        for key in hyperparameters:
            if key not in self.dict:
                raise KeyError(
                    f"a param group has no {key}; load_state_dict and add_param_group fill it in, assigning to "
                    "param_groups does not"
                )
            _append(key, self.dict[key], self.numbers)


def check_lr(lr: Tensor, device: str) -> None:
    """Raises for a tensor lr that is not one float32 or float64 number."""
    if not (is_plain(lr, device) and is_number(lr, 1)):
        raise RuntimeError(
            f"lr is a tensor of {type_name(lr)} of shape {list(lr.shape)}, where one float32 or float64 number is "
            "wanted: make it torch.tensor(lr, device=...)"
        )


def _append(key: str, value: Any, numbers: array[float]) -> None:
    """Appends the number or numbers that ``value`` holds; one on a device would have to be waited for."""
    if isinstance(value, Tensor) and value.device.type != "cpu":
        raise RuntimeError(
            f"{key} is a tensor on {value.device}, and of a param group's numbers only lr may be one: make it a "
            "number, or a tensor on the CPU"
        )
    if isinstance(value, (tuple, list)):
        for item in value:
            numbers.append(item.item() if isinstance(item, Tensor) else item)
    else:
        numbers.append(value.item() if isinstance(value, Tensor) else value)
