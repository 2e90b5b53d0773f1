"""What is known of the last step."""

from __future__ import annotations

from torch import Tensor

from torchclip.backends import reference
from torchclip.backends.codes import NON_FINITE, SKIPPED, STEPPED
from torchclip.backends.plan import Plan


class LastStep:
    """What is known of the last step: held apart, as a compiled graph assigns nothing to optimizers.

    Attributes:
        report: of the reference path.
        outcome: of a compiled plan; STEPPED on the reference path, whose report says more.
        found_inf: AMP's, which a GPU looks at without the host.
        given_norm: what the next step takes for its norm.
        given_loss: what the next step takes for its loss.
    """

    report: reference.StepReport | None = None
    outcome: int = STEPPED
    found_inf: Tensor | None = None
    given_norm: Tensor | None = None
    given_loss: Tensor | float | None = None

    def was_skipped(self, plan: Plan | None) -> bool:
        """Whether it has written nothing; a GPU is waited for."""
        if self.outcome in (SKIPPED, NON_FINITE):
            return True
        if plan is None:
            return self.report is not None and bool(self.report.skipped)
        if self.found_inf is not None and bool((self.found_inf != 0).any()):
            return True
        flag = plan.skipped  # by what other processes have found, too
        return flag is not None and bool(flag)
