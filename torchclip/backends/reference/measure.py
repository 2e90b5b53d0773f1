"""What a step measures: the raw gradients for a clip policy, and what comes to the step size.

Nothing is written here. What a policy will remember of a step comes back as ``Writes``, for when it is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from torchclip.backends.reference import adaptive, pipeline, policies
from torchclip.backends.reference.joint import JointNorms, Measurement
from torchclip.backends.reference.run import Run
from torchclip.backends.reference.split_units import split_units
from torchclip.backends.reference.writes import Writes
from torchclip.policies.clip import (
    AdaGC,
    AdaptiveGradientClip,
    AutoClip,
    ClipByGlobalNorm,
    ClipByTensorNorm,
    ClipByValue,
    Scope,
    ZClip,
)
from torchclip.policies.step_size import AdaLossStep, PolyakStep
from torchclip.rules.norms import norm_dtype
from torchclip.state.steppable import leading_device


@dataclass(frozen=True)
class PolicyMeasurement:
    """What a clip policy has measured.

    Args:
        norm: of the raw gradients; in the shape of the policy's scope.
        factor: what the policy multiplies with, or the share of the norm that it leaves; in the same shape.
        clips: the factor of each parameter: 0-dim, or [rows, 1, …].
        writes: what the policy remembers.
        elsewhere: 0-dim, not finite where a norm is not that another process alone knows; None where there is none.
        joint: 0-dim, the norm of all gradients, where more than a clip factor goes by it.
        left: 0-dim, that norm after clipping.
    """

    norm: Tensor
    factor: Tensor
    clips: Sequence[Tensor | ClipByValue | None]
    writes: Writes = field(default_factory=list)
    elsewhere: Tensor | None = None
    joint: Tensor | None = None
    left: Tensor | None = None


def measure_gradients(run: Run) -> PolicyMeasurement | None:
    """The norms of the raw gradients, and what the clip policy makes of them; None where nothing is measured."""
    clip = run.modifiers.clip
    if not run.modifiers.measures:
        return None
    if run.modifiers.group_clips:
        return _measure_groups(run)
    if isinstance(clip, AdaptiveGradientClip):
        measured = PolicyMeasurement(*split_units(run, clip)) if run.is_split else _measure_units(run, clip)
        return _with_joint(measured)
    scope = Scope.OPTIMIZER if clip is None or isinstance(clip, ClipByValue) else Scope(clip.scope)
    tensor_norms: list[Tensor | None] = [None] * sum(run.group_sizes)
    needs_joint = run.modifiers.takes_joint_norm
    if run.given_norm is None:
        for entry in run.entries:
            tensor_norms[entry.index] = policies.tensor_norm(
                pipeline.raw_gradient(entry.gradient, entry.group, run.inv_scale)
            )
        measurement = Measurement(run, tensor_norms, scope)
        of_all = Measurement(run, tensor_norms, Scope.OPTIMIZER) if scope is Scope.TENSOR and needs_joint else None
        run.run_exchange()
        norms = measurement.read()
        joint = norms.norm if of_all is None else of_all.read().norm
    else:
        norms = JointNorms(run.given_norm, torch.ones_like(run.given_norm, dtype=torch.bool))
        joint = run.given_norm
    if clip is None or isinstance(clip, ClipByValue):  # measured for the step size, or to skip
        factor = torch.ones_like(norms.norm)
        return PolicyMeasurement(norms.norm, factor, [clip] * sum(run.group_sizes), joint=joint, left=joint)
    factor, writes = _policy_factor(run, clip, norms.norm, joint)
    factor = torch.where(norms.present, factor, 1.0)
    clips = policies.per_parameter(factor, run.group_sizes, scope).unbind()
    measured = PolicyMeasurement(norms.norm, factor, clips, writes, norms.elsewhere)
    if not needs_joint:
        return measured
    if scope is not Scope.TENSOR:
        return _with_joint(measured)
    clipped = [None if norm is None else norm * own.to(norm) for norm, own in zip(tensor_norms, clips, strict=True)]
    after = Measurement(run, clipped, Scope.OPTIMIZER)
    run.run_exchange()
    return replace(measured, joint=joint, left=after.read().norm)


def _with_joint(measured: PolicyMeasurement) -> PolicyMeasurement:
    """With the joint norm of what is measured over the optimizer or its groups, which share nothing."""
    joint = torch.linalg.vector_norm(measured.norm.reshape(-1))
    left = torch.linalg.vector_norm((measured.norm * measured.factor).reshape(-1))
    return replace(measured, joint=joint, left=left)


def _measure_groups(run: Run) -> PolicyMeasurement:
    """The norm and the factor of each param group, where groups have policies of their own: [groups].

    Groups in one norm show it alike; of one that is not measured the norm is 0.
    """
    clips, sizes = run.modifiers.group_clips, run.group_sizes
    is_measured = [
        run.modifiers.takes_joint_norm or clip.policy is not None
        for clip, size in zip(clips, sizes, strict=True)
        for _ in range(size)
    ]
    tensor_norms: list[Tensor | None] = [None] * sum(sizes)
    for entry in run.entries:
        if is_measured[entry.index]:
            tensor_norms[entry.index] = policies.tensor_norm(
                pipeline.raw_gradient(entry.gradient, entry.group, run.inv_scale)
            )
    measurement = Measurement(run, tensor_norms, Scope.GROUP)
    run.run_exchange()
    joint = measurement.read()
    own, present = joint.norm.unbind(), joint.present.unbind()
    norms, factors = [], []
    for clip in clips:
        together = [index for index, other in enumerate(clips) if other.unit == clip.unit]
        norm = torch.linalg.vector_norm(torch.stack([own[index] for index in together]))
        norm = torch.zeros_like(norm) if clip.policy is None else norm
        factor = torch.ones_like(norm) if clip.policy is None else clip.policy.factor(norm)
        norms.append(norm)
        factors.append(torch.where(torch.stack([present[index] for index in together]).any(), factor, 1.0))
    factor = torch.stack(factors)
    measured = PolicyMeasurement(
        torch.stack(norms), factor, policies.per_parameter(factor, sizes, Scope.GROUP).unbind()
    )
    if not run.modifiers.takes_joint_norm:
        return measured
    whole = _with_joint(replace(measured, norm=joint.norm))  # of each group by itself
    return replace(measured, joint=whole.joint, left=whole.left)


def _policy_factor(
    run: Run, clip: ClipByGlobalNorm | ClipByTensorNorm | AutoClip | ZClip | AdaGC, norm: Tensor, joint: Tensor
) -> tuple[Tensor, Writes]:
    """The factor of each norm, in the shape of the scope, and what the policy remembers."""
    if isinstance(clip, (ClipByGlobalNorm, ClipByTensorNorm)):
        return clip.factor(norm), []
    # Under autograd a copy, since the graph keeps it and the original is written.
    memory = {
        name: number.to(norm, copy=torch.is_grad_enabled())
        for name, number in run.shared.items()
        if name.startswith("norm_")
    }
    if isinstance(clip, AdaGC):
        factor, new = adaptive.ada_gc(clip, norm, joint, memory)
    elif isinstance(clip, AutoClip):
        factor, new = adaptive.auto_clip(clip, norm, memory)
    else:
        factor, new = adaptive.z_clip(clip, norm, memory)
    return factor, [(run.shared[name], value) for name, value in new.items()]


def _measure_units(run: Run, clip: AdaptiveGradientClip) -> PolicyMeasurement:
    """One factor for each unit; what is reported is the joint norm and the share of it that is left."""
    one = torch.ones((), dtype=torch.float64)
    clips: list[Tensor] = [one] * sum(run.group_sizes)
    before, after = [one.new_zeros(0)], [one.new_zeros(0)]
    for entry in run.entries:
        # Not the working shape: a parameter of no dimensions is one unit, as one of a single dimension is.
        raw = pipeline.raw_gradient(entry.gradient, entry.group, run.inv_scale).view_as(entry.parameter)
        weight = entry.value.view_as(entry.parameter)
        gradients = adaptive.unit_norms(raw, entry.owner.ndim)
        weights = adaptive.unit_norms(weight, entry.owner.ndim)
        factors = clips[entry.index] = adaptive.unit_factors(clip, weights, gradients)
        if len(before) == 1:  # norms of several devices meet on the first one's
            before, after = [gradients.new_zeros(0)], [gradients.new_zeros(0)]
        before.append(gradients.flatten().to(before[0]))
        after.append((factors * gradients).flatten().to(after[0]))
    norm, left = torch.linalg.vector_norm(torch.cat(before)), torch.linalg.vector_norm(torch.cat(after))
    return PolicyMeasurement(norm, torch.where(norm == 0, 1.0, left / torch.where(norm == 0, 1.0, norm)), clips)


def measure_step_size(run: Run, loss: Tensor | None, left: Tensor | None) -> tuple[Tensor | None, Writes]:
    """The step size's factor on every gradient, or PolyakStep's step, 0-dim, and what it remembers; None without one.

    Args:
        run: the step.
        loss: 0-dim; None without one.
        left: 0-dim, the joint norm after clipping; None where it is not measured.
    """
    step_size = run.modifiers.step_size
    if step_size is None:
        return None, []
    if isinstance(step_size, AdaLossStep):
        assert loss is not None, "the optimizer lets no step with AdaLossStep begin without a loss"
        held = run.shared["b_squared"]
        b_squared = step_size.accumulate(held, loss)
        return 1 / b_squared.sqrt(), [(held, b_squared)]
    if isinstance(step_size, PolyakStep):
        assert loss is not None and left is not None, "PolyakStep goes by the loss and the norm of the gradients"
        before = run.shared.get("polyak_step")
        step = step_size.step(loss, left**2, before)
        if before is None:
            return step, []
        return step, [(before, torch.where(step.isfinite() & loss.to(step).isfinite(), step, before.to(step)))]
    device = leading_device(run.param_groups)
    return torch.as_tensor(step_size.factor(run.number), dtype=norm_dtype(device), device=device), []
