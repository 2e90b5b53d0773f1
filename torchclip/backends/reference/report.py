"""What a step tells of itself."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from torchclip.backends.reference.directions import RuleMeasurement
from torchclip.backends.reference.measure import PolicyMeasurement
from torchclip.rules.norms import norm_dtype


@dataclass(frozen=True)
class StepReport:
    """What a step did and measured. All tensors are detached.

    Args:
        skipped: nothing was written; 0-dim in a compiled graph.
        nonfinite: a norm was not finite and the clip policy says ``"error"``: the caller raises.
        grad_norm: the norm that the clip policy measured, or, without one, ‖g‖ as a rule that clips itself sees it; in
            the shape of the scope; 0 where there is no gradient. None where nothing is measured.
        clip_factor: the policy's factor, or the rule's factor on lr; in the shape of the scope; 1 where there is no
            gradient. For a rule that clips itself over the scope of the optimizer it is that of the first group.
        direction_norm: ‖m‖ of a rule that clips itself, in the shape of the rule's scope.
        lr_scale: 0-dim, the step size's factor.
        measured_steps: 0-dim, how many of the steps so far, this one included, measured a clip factor and were taken;
            those without any gradient do not count. None before the first.
        clipped_steps: 0-dim, in how many of them one was below 1; None before the first.
        tried_steps: 0-dim, how many steps a policy could have skipped; None where there is none.
        skipped_steps: 0-dim, how many of them were skipped.
    """

    skipped: bool | Tensor
    nonfinite: bool
    grad_norm: Tensor | None
    clip_factor: Tensor | None
    direction_norm: Tensor | None = None
    lr_scale: Tensor | None = None
    measured_steps: Tensor | None = None
    clipped_steps: Tensor | None = None
    tried_steps: Tensor | None = None
    skipped_steps: Tensor | None = None

    def measured(self) -> dict[str, Tensor]:
        """What there is of the measurements, by the names of ``optimizer.metrics()``."""
        fraction = None
        if self.clip_factor is not None and self.clipped_steps is not None and self.measured_steps is not None:
            fraction = self.clipped_steps / self.measured_steps.clamp(min=1)
        each = {
            "grad_norm": self.grad_norm,
            "clip_factor": self.clip_factor,
            "direction_norm": self.direction_norm,
            "clipped_fraction": fraction,
            "lr_scale": self.lr_scale,
        }
        if self.tried_steps is not None and self.skipped_steps is not None:
            each |= {
                "skipped": torch.as_tensor(self.skipped, dtype=torch.float32),
                "skipped_fraction": self.skipped_steps / self.tried_steps,
            }
        return {name: value for name, value in each.items() if value is not None}

    def with_skip_counted(self, before: StepReport | None) -> StepReport:
        """Where a policy may have skipped the step; ``before`` is the report of the previous one."""
        device = self.skipped.device if isinstance(self.skipped, Tensor) else torch.device("cpu")
        one = torch.ones((), dtype=norm_dtype(device), device=device)
        tried = None if before is None else before.tried_steps
        earlier = None if before is None else before.skipped_steps
        tried = one if tried is None else tried.to(one) + one
        earlier = torch.zeros_like(one) if earlier is None else earlier.to(one)
        return replace(self, tried_steps=tried, skipped_steps=earlier + one * self.skipped)

    def without_measurements(self) -> StepReport:
        """Of what happened before the clip policy changed: the counters alone."""
        return StepReport(
            self.skipped,
            False,
            None,
            None,
            measured_steps=self.measured_steps,
            clipped_steps=self.clipped_steps,
            tried_steps=self.tried_steps,
            skipped_steps=self.skipped_steps,
        )


def report_of(
    by_policy: PolicyMeasurement | None,
    by_rule: RuleMeasurement | None,
    lr_scale: Tensor | None,
    taken: bool | Tensor,
    before: StepReport | None,
    *,
    skipped: bool | Tensor,
    nonfinite: bool,
) -> StepReport:
    """The report of a step, from its measurements and what went before.

    Args:
        by_policy, by_rule, lr_scale: the measurements, None for what there is not.
        taken: whether the step counts; 0-dim in a compiled graph.
        before: the report of the previous step.
        skipped, nonfinite: the report's own.
    """
    before = StepReport(False, False, None, None) if before is None else before
    measured_steps, clipped_steps = before.measured_steps, before.clipped_steps
    direction = None if by_rule is None else by_rule.direction.detach()
    scale = None if lr_scale is None else lr_scale.detach()
    reported, norm, factor = by_policy or by_rule, None, None
    if reported is not None:
        norm, factor = reported.norm.detach(), reported.factor.detach()
        zero = torch.zeros((), dtype=norm.dtype, device=norm.device)
        measured_steps = (zero if measured_steps is None else measured_steps.to(norm)) + taken
        clipped_steps = (zero if clipped_steps is None else clipped_steps.to(norm)) + ((factor < 1).any() & taken)
    return StepReport(
        skipped,
        nonfinite,
        norm,
        factor,
        direction,
        scale,
        measured_steps,
        clipped_steps,
        before.tried_steps,
        before.skipped_steps,
    )
