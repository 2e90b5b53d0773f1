"""One optimizer step in pure PyTorch: what ``FusedOptimizer`` runs on the reference path.

Like the kernels, it goes over the parameters up to three times, keeping no more than one tensor's temporaries: once to
measure the raw gradients for a clip policy, once to measure the direction of a rule that clips itself, and once to
update. Only the last writes, so a step that is skipped has touched nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torchclip.clip import ClipByGlobalNorm, ClipByTensorNorm, ClipByValue, ClipPolicy, NonFinite, NormPolicy, Scope
from torchclip.reference import pipeline, policies
from torchclip.reference.policies import Measurement, Norms
from torchclip.reference.rules import RULES, Group, State
from torchclip.rule_spec import RuleSpec


@dataclass(frozen=True)
class StepReport:
    """What a step did and measured.

    Args:
        skipped: nothing was written.
        nonfinite: a norm was not finite and the clip policy says ``"error"``: the caller raises.
        grad_norm: the norm that the clip policy measured, or, without one, ‖g‖ as a rule that clips itself sees it; in
            the shape of the scope; 0 where there is no gradient. None where nothing is measured.
        clip_factor: the policy's factor, or h(‖m‖)/lr; in the shape of the scope; 1 where there is no gradient. For a
            rule that clips itself over the scope of the optimizer it is h of the first group.
    """

    skipped: bool
    nonfinite: bool
    grad_norm: Tensor | None
    clip_factor: Tensor | None


@dataclass(frozen=True)
class _Entry:
    """A parameter with a gradient; ``index`` counts through all groups, parameters without gradient included."""

    index: int
    group: Group
    parameter: Tensor
    gradient: Tensor


@dataclass(frozen=True)
class _Step:
    """What holds for every parameter of this step."""

    spec: RuleSpec
    param_groups: Sequence[Group]
    state: Mapping[Tensor, Mapping[str, Any]]
    inv_scale: Tensor | None

    @property
    def group_sizes(self) -> list[int]:
        return [len(group["params"]) for group in self.param_groups]

    def entries(self) -> Iterator[_Entry]:
        index = 0
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    yield _Entry(index, _on_device(group, parameter.device), parameter, parameter.grad)
                index += 1


def step(
    spec: RuleSpec,
    param_groups: list[dict[str, Any]],
    state: dict[Tensor, dict[str, Any]],
    *,
    clip: ClipPolicy | None = None,
    scope: Scope = Scope.OPTIMIZER,
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
) -> StepReport:
    """Takes one step, writing parameters and state in place.

    The caller has checked the gradients and turned autograd off, or left it on for a differentiable step.

    Args:
        spec: the rule.
        param_groups: as in ``optimizer.param_groups``.
        state: as in ``optimizer.state``; what is missing is made, unless the step is skipped.
        clip: what is applied to the raw gradients.
        scope: over which parameters a rule that clips itself takes its norms.
        grad_scale: the scale of a GradScaler that has not been undone yet, one element.
        found_inf: one element; when it is not 0 the step is skipped.
    """
    run = _Step(spec, param_groups, state, _inverse(grad_scale))
    norm_policy = clip if isinstance(clip, (ClipByGlobalNorm, ClipByTensorNorm)) else None
    by_policy = None if norm_policy is None else _measure_gradients(run, norm_policy)
    clips = _clip_of_each(run, clip, by_policy)
    by_rule, norms = _measure_directions(run, scope, clips) if spec.clips_itself else (None, {})

    overflow = found_inf is not None and bool((found_inf != 0).any())
    handling = NonFinite.PROPAGATE if norm_policy is None else norm_policy.nonfinite
    nonfinite = by_policy is not None and _refused(handling, by_policy.norm)
    if not overflow and not nonfinite:
        for entry in run.entries():
            _update(run, state, entry, clips[entry.index], norms.get(entry.index))

    reported = by_policy or by_rule
    return StepReport(
        skipped=overflow or nonfinite,
        # When the loss scale has overflowed, gradients that are not finite are expected: the scaler handles them.
        nonfinite=nonfinite and not overflow and handling is NonFinite.ERROR,
        grad_norm=None if reported is None else reported.norm.detach(),
        clip_factor=None if reported is None else reported.factor.detach(),
    )


def _measure_gradients(run: _Step, clip: NormPolicy) -> Measurement:
    """The norms of the raw gradients over the policy's scope, and their clip factors."""
    tensor_norms: list[Tensor | None] = [None] * sum(run.group_sizes)
    for entry in run.entries():
        tensor_norms[entry.index] = policies.tensor_norm(_raw_gradient(run, entry))
    norm = policies.joint_norms(tensor_norms, run.group_sizes, clip.scope)
    present = policies.has_gradient(tensor_norms, run.group_sizes, clip.scope)
    return Measurement(clip.scope, norm, torch.where(present, clip.factor(norm), 1.0))


def _measure_directions(
    run: _Step, scope: Scope, clips: Sequence[Tensor | ClipByValue | None]
) -> tuple[Measurement, dict[int, Norms]]:
    """The norms of a rule that clips itself: as the step reports them, and for each parameter by its index."""
    sizes = run.group_sizes
    of_gradients: list[Tensor | None] = [None] * sum(sizes)
    of_directions: list[Tensor | None] = [None] * sum(sizes)
    for entry in run.entries():
        gradient = _prepared(run, entry, _parameter(entry), clips[entry.index])
        new, _ = _accumulated(run, entry, gradient)
        of_gradients[entry.index] = policies.tensor_norm(gradient)
        of_directions[entry.index] = policies.tensor_norm(new.get("momentum_buffer", gradient))
    gradient_norm = policies.joint_norms(of_gradients, sizes, scope)
    direction_norm = policies.joint_norms(of_directions, sizes, scope)

    present = policies.has_gradient(of_gradients, sizes, scope)
    factor = _own_factor(run, scope, direction_norm)
    measurement = Measurement(scope, gradient_norm, torch.where(present, factor, 1.0))
    gradient_norms = policies.per_parameter(gradient_norm, sizes, scope)
    direction_norms = policies.per_parameter(direction_norm, sizes, scope)
    norms = {
        entry.index: Norms(
            gradient_norms[entry.index].to(entry.parameter.device),
            direction_norms[entry.index].to(entry.parameter.device),
        )
        for entry in run.entries()
    }
    return measurement, norms


def _own_factor(run: _Step, scope: Scope, norm: Tensor) -> Tensor:
    """h(‖m‖)/lr in the shape of the scope."""
    clip_factor = RULES[run.spec.name].clip_factor
    assert clip_factor is not None, f"{run.spec.name} clips itself and has no clip factor in the reference"
    groups = policies.per_scope(run.param_groups, run.group_sizes, scope)
    pairs = zip(norm.reshape(-1), groups, strict=True)
    factors = [clip_factor(entry, _on_device(group, norm.device)) for entry, group in pairs]
    return torch.stack(factors).reshape(norm.shape) if factors else torch.ones_like(norm)


def _update(
    run: _Step,
    state: dict[Tensor, dict[str, Any]],
    entry: _Entry,
    clip: Tensor | ClipByValue | None,
    norms: Norms | None,
) -> None:
    """Writes the new state and the new value of one parameter."""
    parameter = _parameter(entry)
    gradient = _prepared(run, entry, parameter, clip)
    new, stored = _accumulated(run, entry, gradient)
    decayed = pipeline.decay(parameter, entry.group)
    stepped = RULES[run.spec.name].apply(decayed, gradient, new, entry.group, norms)
    # A mask on the step chooses between ``decayed`` and ``stepped`` here; what follows the step follows this copy.
    entry.parameter.copy_(stepped.view_as(entry.parameter))
    for name, value in new.items():
        stored[name].copy_(value.view_as(stored[name]))
    if stored:
        state.setdefault(entry.parameter, {}).update(stored)


def _raw_gradient(run: _Step, entry: _Entry) -> Tensor:
    inv_scale = None if run.inv_scale is None else run.inv_scale.to(entry.gradient.device)
    return pipeline.raw_gradient(torch.atleast_1d(entry.gradient), entry.group, inv_scale)


def _prepared(run: _Step, entry: _Entry, parameter: Tensor, clip: Tensor | ClipByValue | None) -> Tensor:
    if isinstance(clip, Tensor):
        clip = clip.to(parameter.device)
    return pipeline.prepare(_raw_gradient(run, entry), parameter, entry.group, clip)


def _parameter(entry: _Entry) -> Tensor:
    return _working(entry.parameter, pipeline.compute_dtype(entry.parameter))


def _working(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """``tensor`` as the rules take it, in their type and with at least one dimension.

    A 0-dim one would be promoted by the float64 scalars that it meets, and be computed differently from the rest. Under
    autograd it is always a copy, since the graph keeps it and the original is written.
    """
    return torch.atleast_1d(tensor.to(dtype, copy=torch.is_grad_enabled()))


def _accumulated(run: _Step, entry: _Entry, gradient: Tensor) -> tuple[State, State]:
    """The new state of one parameter, unrounded, and the tensors that it is to be written to.

    Those are the tensors of ``state``, and new ones, which ``state`` does not know yet, for what is missing there.
    """
    spec, group, parameter = run.spec, entry.group, entry.parameter
    # ``get``, because the optimizer's state is a defaultdict: a lookup would leave an entry behind.
    held = run.state.get(parameter, {})
    missing = spec.missing_state(held, group)
    scalars = [scalar.name for scalar in spec.scalars]
    names = (*spec.used_slots(group), *scalars)
    stored = {name: spec.create_state(name, parameter, group) if name in missing else held[name] for name in names}
    dtype = pipeline.compute_dtype(parameter)
    # The numbers of the state are computed in float64: 1 - beta2**step has no digits to spare.
    old = {
        name: tensor.to(policies.norm_dtype(tensor.device), copy=True) if name in scalars else _working(tensor, dtype)
        for name, tensor in stored.items()
    }
    return RULES[spec.name].accumulate(gradient, old, group, bool(missing)), stored


def _clip_of_each(
    run: _Step, clip: ClipPolicy | None, measured: Measurement | None
) -> Sequence[Tensor | ClipByValue | None]:
    """What ``pipeline.prepare`` gets for each parameter: its factor, or the policy that needs none."""
    if measured is None:
        return [clip if isinstance(clip, ClipByValue) else None] * sum(run.group_sizes)
    return policies.per_parameter(measured.factor, run.group_sizes, measured.scope).unbind()


def _refused(handling: NonFinite, norm: Tensor) -> bool:
    """Whether the step stops because a norm is not finite."""
    return handling is not NonFinite.PROPAGATE and not bool(norm.isfinite().all())


def _inverse(grad_scale: Tensor | None) -> Tensor | None:
    if grad_scale is None:
        return None
    return grad_scale.reshape(()).to(policies.norm_dtype(grad_scale.device)).reciprocal()


def _on_device(group: Group, device: torch.device) -> Group:
    """The group with hyperparameters that are tensors, of shape [] or [1], made 0-dim and put on ``device``."""
    return {name: _number(value, device) for name, value in group.items()}


def _number(value: Any, device: torch.device) -> Any:
    if isinstance(value, tuple):  # betas
        return tuple(_number(part, device) for part in value)
    if isinstance(value, Tensor):
        return value.reshape(()).to(device, policies.norm_dtype(device))
    return value
