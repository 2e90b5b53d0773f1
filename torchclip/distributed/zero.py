"""ZeroRedundancyOptimizer, which gives each process some of the parameters and an optimizer of its own for them."""

from __future__ import annotations

import sys
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

from torchclip.distributed.processes import is_running

MODULE, FUNCTION = "torch.distributed.optim.zero_redundancy_optimizer", "_init_local_optimizer"


def is_made_by_zero() -> bool:
    """Whether the optimizer that is being made is one of those: nothing but the calls that lead here tells."""
    if not is_running() or MODULE not in sys.modules:
        return False
    frame = sys._getframe(1)
    while frame.f_back is not None:
        if frame.f_code.co_name == FUNCTION and frame.f_globals.get("__name__") == MODULE:
            return True
        frame = frame.f_back
    return False


def drop_options(param_groups: Sequence[MutableMapping[str, Any]], options: Mapping[str, Any]) -> None:
    """Takes out of the param groups what is an argument of the constructor.

    The wrapper's own groups have every argument as a default, and it copies their keys into ours at every step, where a
    group's ``"clip"`` is another thing than the optimizer's.
    """
    for group in param_groups:
        for name, value in options.items():
            if name in group and group[name] is value:
                del group[name]


def reason_without_group(has_sums: bool) -> str | None:
    """What is wrong with an optimizer that it makes without a ``norm_group``; None for one whose step takes no sums."""
    if not has_sums:
        return None
    return (
        "ZeroRedundancyOptimizer gives each process some of the parameters, and a norm, or a share of zeros, of those "
        "alone is another one in every process: say norm_group=torch.distributed.group.WORLD, or the "
        "process_group that it was given, which it hands on"
    )
