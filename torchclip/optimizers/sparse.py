"""What the rules that leave exact zeros have in common."""

from __future__ import annotations

from torch import Tensor

from torchclip.rules.hyperparameters import ABSENT
from torchclip.step.fused_optimizer import FusedOptimizer


def check_no_decay(optimizer: str, weight_decay: float) -> None:
    """Raises ValueError for a ``weight_decay`` that is not 0, which frameworks hand to every optimizer."""
    if ABSENT.reason_against("weight_decay", weight_decay) is not None:
        raise ValueError(f"{optimizer} has no weight decay, and was given {weight_decay=}: leave it out")


class SparseOptimizer(FusedOptimizer):
    """Abstract base of the optimizers whose parameters become exactly zero."""

    def sparsity(self) -> Tensor:
        """The fraction of parameters that are exactly zero: a 0-dim float32 tensor in [0, 1].

        The fused step counts while it writes; a parameter that it has not written yet is counted here.
        """
        return self._own._sparsity()
