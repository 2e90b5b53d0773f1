"""The parameters as WeightEMA has averaged them, for as long as a ``with`` block lasts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from torchclip.policies.modifiers import EMA


@contextmanager
def averages_shown(
    param_groups: Sequence[Mapping[str, Any]], state: Mapping[Tensor, Mapping[str, Any]]
) -> Iterator[None]:
    """Has the parameters hold their averages; what they held comes back, whatever happens within."""
    pairs = []
    for group in param_groups:
        for parameter in group["params"]:
            average = state.get(parameter, {}).get(EMA.name)
            if average is not None:
                pairs.append((parameter, average, parameter.detach().clone()))
    try:
        with torch.no_grad():
            for parameter, average, _ in pairs:
                parameter.copy_(average)
        yield
    finally:
        with torch.no_grad():
            for parameter, _, own in pairs:
                parameter.copy_(own)
