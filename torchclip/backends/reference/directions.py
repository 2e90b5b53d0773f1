"""What a rule that clips itself measures: the gradient as the rule sees it, and its direction.

Nothing is written here. The sums that parameters share come back as ``Writes``, for when the step is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from torchclip.backends.reference import policies
from torchclip.backends.reference.joint import Measurement
from torchclip.backends.reference.rows import SplitRows
from torchclip.backends.reference.run import Run, on_device, prepared_gradient, state_of
from torchclip.backends.reference.writes import Writes
from torchclip.policies.clip import Scope
from torchclip.rules.norms import Norms


@dataclass(frozen=True)
class RuleMeasurement:
    """What a rule that clips itself has measured.

    Args:
        norm: ‖g‖ as the rule sees it; in the shape of the scope.
        direction: ‖m‖, in the same shape.
        factor: on lr, in the same shape.
        norms: what the rule is given, by the index of the parameter.
        writes: the sums that parameters share.
    """

    norm: Tensor
    direction: Tensor
    factor: Tensor
    norms: dict[int, Norms]
    writes: Writes


def measure_directions(run: Run) -> RuleMeasurement:
    """The norms of a rule that clips itself: as the step reports them, and for each parameter by its index."""
    sizes, accumulate = run.group_sizes, run.spec.accumulate
    assert accumulate is not None, f"{run.spec.name} clips itself and measures no direction in the reference"
    # Rows are too many to report: their joint norm is.
    scope = Scope.OPTIMIZER if run.scope is Scope.ROW else run.scope
    of_gradients: list[Tensor | None] = [None] * sum(sizes)
    of_directions: list[Tensor | None] = [None] * sum(sizes)
    own_sums: list[Tensor | None] = [None] * sum(sizes)
    rows = SplitRows(run, least_dimensions=2) if run.scope is Scope.ROW else None
    for entry in run.entries:
        gradient = prepared_gradient(run, entry, entry.value)
        state, _, _, first = state_of(run, entry)
        new = accumulate(gradient, state, entry.group, first)
        of_gradients[entry.index] = policies.tensor_norm(gradient)
        of_directions[entry.index] = policies.tensor_norm(new.get("momentum_buffer", gradient))
        own_sums[entry.index] = state.get("sum") if run.is_split else new.get("sum")
        if rows is not None:
            rows.measure(entry.index, gradient.view_as(entry.parameter))
    measurements = [Measurement(run, each, scope) for each in (of_gradients, of_directions)]
    if rows is not None:
        rows.add()
    run.run_exchange()
    joint = measurements[0].read()
    gradient_norm, direction_norm = joint.norm, measurements[1].read().norm
    if run.is_split and run.scope is Scope.TENSOR:
        squares = (gradient_norm**2).unbind()
        own_sums = [None if own is None else own + square for own, square in zip(own_sums, squares, strict=True)]
    sums, writes = _sums(run, own_sums, gradient_norm)

    factor = torch.where(joint.present, _own_factor(run, scope, gradient_norm, direction_norm, sums), 1.0)
    per_parameter = [
        None if values is None else policies.per_parameter(values, sizes, scope)
        for values in (gradient_norm, direction_norm, sums)
    ]
    norms = {}
    for entry in run.entries:
        device = entry.parameter.device
        own = [None if values is None else values[entry.index].to(device) for values in per_parameter]
        assert own[0] is not None and own[1] is not None
        squares_of_rows = None if rows is None else rows.squares(entry.index)
        norms[entry.index] = Norms(own[0], own[1], run.scope, own[2], squares_of_rows)
    return RuleMeasurement(gradient_norm, direction_norm, factor, norms, writes)


def _sums(run: Run, own_sums: Sequence[Tensor | None], norm: Tensor) -> tuple[Tensor | None, Writes]:
    """The new sums of squared norms in the shape of the scope, for a rule that keeps them, and those to be written.

    Sums of tensors and rows are state of the parameters, and written with it.
    """
    if run.spec.by_scope is None or run.scope is Scope.ROW:
        return None, []
    if run.scope is Scope.TENSOR:
        one = torch.ones_like(norm[0]) if len(norm) else norm
        sums = [one if own is None else own.reshape(()).to(one) for own in own_sums]
        return torch.stack(sums) if sums else norm, []
    held = [group["shared"]["sum"] for group in run.param_groups[: norm.numel()]]
    new = torch.stack([one.to(norm, copy=torch.is_grad_enabled()) for one in held]).reshape(norm.shape) + norm**2
    return new, list(zip(held, new.reshape(-1), strict=True))


def _own_factor(run: Run, scope: Scope, gradient: Tensor, direction: Tensor, sums: Tensor | None) -> Tensor:
    """The factor on lr in the shape of the scope; 1 for all rows together."""
    clip_factor = run.spec.clip_factor
    assert clip_factor is not None, f"{run.spec.name} clips itself and has no clip factor in the reference"
    if run.scope is Scope.ROW:
        return torch.ones_like(direction)
    groups = policies.per_scope(run.param_groups, run.group_sizes, scope)
    factors = []
    for index, group in enumerate(groups):
        own_sum = None if sums is None else sums.reshape(-1)[index]
        norms = Norms(gradient.reshape(-1)[index], direction.reshape(-1)[index], scope, own_sum)
        factors.append(clip_factor(norms, on_device(group, direction.device)))
    return torch.stack(factors).reshape(direction.shape) if factors else torch.ones_like(direction)
