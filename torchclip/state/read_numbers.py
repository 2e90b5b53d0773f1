"""Shared numbers of param groups as a reference step takes them: those that a user broke are refused, in the words of
the cpu backend."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from torchclip.policies.modifiers import Modifiers
from torchclip.rules.norms import Scope, norm_dtype
from torchclip.rules.rule_spec import RuleSpec
from torchclip.rules.soft_threshold import THRESHOLD_SCALE
from torchclip.rules.state_numbers import COUNT
from torchclip.state.group_state import NUMBERS, numbers_of, shapes_of
from torchclip.state.steppable import leading_device

_REMEDY = "; it is state of the optimizer: load a state_dict, or make the optimizer anew, and do not assign to it"
_READ = frozenset((THRESHOLD_SCALE, *(name for name, wanted in NUMBERS.items() if wanted is COUNT)))
"""Those whose range is checked, as the cpu backend does."""


def check_shared(param_groups: Sequence[Mapping[str, Any]], modifiers: Modifiers, spec: RuleSpec, scope: Scope) -> None:
    """Raises for a shared number that a step cannot take, before it writes anything.

    The range of a number on a GPU is not checked, since it is not waited for. In a compiled graph, for which no number
    is read, ranges are assertions, and nothing else is checked.

    Args:
        param_groups: as in ``optimizer.param_groups``.
        modifiers, spec, scope: as :func:`torchclip.state.group_state.complete_shared` takes them.

    Raises:
        ValueError: for a number out of range; a RuntimeError of a compiled graph.
        RuntimeError: for what is missing, or not as the optimizer makes it.
    """
    if torch.compiler.is_compiling():
        for group in param_groups:
            for name, held in numbers_of(group).items():
                if name in _READ and held.device.type == "cpu":
                    # Without quotes, which torch's compiler would write into C++ as they are.
                    words = f"the shared number {name} of param_groups must be {NUMBERS[name].words}{_REMEDY}"
                    torch._assert_async(NUMBERS[name].holds(held).all(), words.replace('"', ""))
        return
    for index, group in enumerate(param_groups):
        for name, shape in shapes_of(index, param_groups, modifiers, spec, scope).items():
            held = numbers_of(group).get(name)
            lacks_value = isinstance(held, Tensor) and held.is_meta and leading_device(param_groups).type != "meta"
            _check(held, name, shape, lacks_value=lacks_value)


def _check(held: Any, name: str, shape: tuple[int, ...], *, lacks_value: bool) -> None:
    if not isinstance(held, Tensor):
        raise RuntimeError(f'param_groups\' "shared" has no tensor "{name}"{_REMEDY}')
    what = f'param_groups\' "shared" number "{name}" is'
    dtype = torch.int64 if name == "seed" else norm_dtype(held.device)
    if held.shape != shape or held.dtype is not dtype or held.layout is not torch.strided or lacks_value:
        place = "cpu" if lacks_value else held.device.type
        raise RuntimeError(
            f"{what} a tensor of {held.dtype} of shape {list(held.shape)} on {held.device}, where {math.prod(shape)} "
            f"of {dtype} on {place} are wanted, of shape {list(shape)}{_REMEDY}"
        )
    if name in _READ and held.device.type == "cpu" and not NUMBERS[name].holds(number := held.item()):
        raise ValueError(f"{what} {number}, and {NUMBERS[name].words} is wanted{_REMEDY}")
