"""ZeroRedundancyOptimizer, which gives each process some of the parameters and an optimizer of its own for them."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable
from typing import Any

from torchclip.distributed.processes import is_running

MODULE, FUNCTION = "torch.distributed.optim.zero_redundancy_optimizer", "_init_local_optimizer"


def zero_that_asks() -> Any | None:
    """The ZeroRedundancyOptimizer that an optimizer is being made for: nothing but the calls that lead here tells."""
    if not is_running() or MODULE not in sys.modules:
        return None
    frame = sys._getframe(1)
    while frame.f_back is not None:
        if frame.f_code.co_name == FUNCTION and frame.f_globals.get("__name__") == MODULE:
            return frame.f_locals["self"]
        frame = frame.f_back
    return None


def take_arguments_out(zero: Any, params: Iterable[Any], hyperparameters: Collection[str]) -> list[Any]:
    """Takes out of param groups the arguments of the constructor that are no hyperparameters.

    The wrapper has every argument as a default of its own groups. It copies their keys into ours in every step, where a
    group's ``"clip"`` is another thing than the optimizer's, and saves them, policies and process groups among them.
    Once it has made its optimizer, nothing asks for them any more.

    Args:
        zero: the wrapper; its groups and defaults are changed.
        params: what it hands on.
        hyperparameters: the keys that stay.

    Returns:
        ``params`` without them.
    """
    arguments = {name: value for name, value in zero.defaults.items() if name not in hyperparameters}
    copies = [dict(one) if isinstance(one, dict) else one for one in params]
    for group in (*zero.param_groups, *(one for one in copies if isinstance(one, dict))):
        for name, value in arguments.items():
            if name in group and group[name] is value:  # and no setting of the group's own
                del group[name]
    for name in arguments:
        del zero.defaults[name]
    return copies


def reason_without_group(has_sums: bool) -> str | None:
    """What is wrong with an optimizer that it makes without a ``norm_group``; None for one whose step takes no sums."""
    if not has_sums:
        return None
    return (
        "ZeroRedundancyOptimizer gives each process some of the parameters, and a norm, or a share of zeros, of those "
        "alone is another one in every process: say norm_group=torch.distributed.group.WORLD, or the "
        "process_group that it was given, which it hands on"
    )
