"""Numbers of state of param groups as the compiled step reads them on the host: refused where a user broke them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from torchclip.rules.norms import norm_dtype
from torchclip.rules.soft_threshold import THRESHOLD_SCALE
from torchclip.state.group_state import NUMBERS, numbers_of

_REMEDY = "; it is state of the optimizer: load a state_dict, or make the optimizer anew, and do not assign to it"


def counted(shared: Mapping[str, Tensor], name: str) -> int:
    """A shared number that counts something.

    Raises:
        ValueError: when it is no count.
        RuntimeError: when it is no number as the optimizer makes it.
    """
    return int(_read(shared[name], name))


def check_thresholds(param_groups: Sequence[Mapping[str, Any]]) -> None:
    """Raises for a factor on a threshold that is none, but on a GPU, which is not waited for.

    Raises:
        ValueError: for a number out of range.
        RuntimeError: for what is no number as the optimizer makes it.
    """
    held = [group["shared"][THRESHOLD_SCALE] for group in param_groups if THRESHOLD_SCALE in numbers_of(group)]
    for scale in () if torch.compiler.is_compiling() else held:
        if not isinstance(scale, Tensor) or scale.device.type == "cpu":
            _read(scale, THRESHOLD_SCALE)


def _read(held: Any, name: str) -> float:
    """A shared number on the host."""
    if not isinstance(held, Tensor):
        raise RuntimeError(f'param_groups\' "shared" has no tensor "{name}"{_REMEDY}')
    what = f'param_groups\' "shared" number "{name}" is'
    if held.numel() != 1 or held.dtype is not norm_dtype(held.device):
        raise RuntimeError(
            f"{what} a tensor of {held.dtype} of shape {list(held.shape)} on {held.device}, where 1 of "
            f"{norm_dtype(held.device)} on {held.device.type} are wanted{_REMEDY}"
        )
    number: float = held.item()
    if not NUMBERS[name].holds(number):
        raise ValueError(f"{what} {number}, and {NUMBERS[name].words} is wanted{_REMEDY}")
    return number
