"""A step of an optimizer on the reference path: what is checked before it, and what is kept of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.compiler import is_compiling

from torchclip.backends import reference
from torchclip.policies.clip import AdaGC
from torchclip.policies.group_clip import check_keys, clips_of
from torchclip.state.group_state import fit_bounds
from torchclip.state.ordinary import are_ordinary
from torchclip.state.parameter_state import Ledger, check_all, nonfinite_error
from torchclip.state.read_numbers import check_shared

if TYPE_CHECKING:
    from torchclip.step.fused_optimizer import FusedOptimizer


def reference_step(
    optimizer: FusedOptimizer,
    loss: Tensor | None,
    grad_scale: Tensor | None,
    found_inf: Tensor | None,
    ledger: Ledger | None,
) -> None:
    """Takes one step; the arguments are those of :func:`torchclip.backends.reference.step`.

    Raises:
        RuntimeError, TypeError, ValueError: for what does not fit, and for a norm that is not finite under
            ``nonfinite="error"``. Nothing is written then.
    """
    layout, given_norm = optimizer._processes.layout(optimizer), optimizer._last.given_norm
    optimizer._last.given_norm = None
    clip, precision = optimizer._modifiers.clip, optimizer._modifiers.precision
    if isinstance(clip, AdaGC):
        fit_bounds(optimizer.param_groups)
    groups = optimizer._keys.read(optimizer.param_groups)
    check_shared(groups, optimizer._modifiers, optimizer.spec, optimizer.clips_by)
    if precision is not None or is_compiling() or not are_ordinary(optimizer.spec, groups, optimizer.state):
        check_all(optimizer.spec, optimizer._named_parameters(), optimizer.state, precision)
    for index, group in enumerate(optimizer.param_groups):
        check_keys(group, index, clips_itself=optimizer.spec.clips_itself)
    if clips_of(optimizer.param_groups, clip) != optimizer._modifiers.group_clips:
        optimizer._set_clips(clip)
    optimizer._processes.look(optimizer)
    modifiers = optimizer._modifiers
    with torch.set_grad_enabled(True in [group.get("differentiable") for group in groups]):
        optimizer._last.report = reference.step(
            optimizer.spec,
            groups,
            optimizer.state,
            modifiers=modifiers,
            scope=optimizer.clips_by,
            grad_scale=grad_scale,
            found_inf=found_inf,
            loss=loss,
            before=optimizer._last.report,
            ledger=ledger,
            layout=layout,
            given_norm=given_norm,
            loss_over=() if layout is None else optimizer._processes.loss_over(layout, modifiers),
        )
    if optimizer._last.report.nonfinite:
        raise nonfinite_error(optimizer._named_parameters(), modifiers.raising, given_norm)
