"""State that belongs to no single parameter, as kernels read it by address: see torchclip/state/group_state.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def check_shared(shared: Mapping[str, Any], wanted: Mapping[str, int], device: torch.device) -> None:
    """Raises for a shared number that is not as a kernel reads it: so many float64 numbers on the device.

    Args:
        shared: of a param group.
        wanted: how many each number is, by name.
        device: where they must lie.
    """
    remedy = "it is state of the optimizer: load a state_dict, or make the optimizer anew, and do not assign to it"
    for name, count in wanted.items():
        value = shared.get(name)
        if not isinstance(value, Tensor):
            raise RuntimeError(f'param_groups\' "shared" has no tensor "{name}"; {remedy}')
        fits = value.dtype is torch.float64 and value.device == device and value.numel() == count
        if not fits or not value.is_contiguous():
            raise RuntimeError(
                f'param_groups\' "shared" number "{name}" is {value.dtype} of shape {tuple(value.shape)} on '
                f"{value.device}, where {count} of torch.float64 on {device} are wanted; {remedy}"
            )
