"""What the rules that leave exact zeros have in common."""

from __future__ import annotations

from torch import Tensor

from torchclip.step.fused_optimizer import FusedOptimizer


class SparseOptimizer(FusedOptimizer):
    """Abstract base of the optimizers whose parameters become exactly zero."""

    def sparsity(self) -> Tensor:
        """The fraction of parameters that are exactly zero: a 0-dim float32 tensor in [0, 1].

        The fused step counts while it writes; a parameter that it has not written yet is counted here.
        """
        return self._own._sparsity()
