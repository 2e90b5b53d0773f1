"""What the rules that leave exact zeros have in common: their count, and a target for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor
from typing_extensions import Unpack

from torchclip.rules.hyperparameters import ABSENT, TARGET_SPARSITY, Check
from torchclip.rules.soft_threshold import TARGET, THRESHOLD_SCALE
from torchclip.state.group_state import numbers_of
from torchclip.step.fused_optimizer import FusedOptimizer, ParamsT
from torchclip.step.options import Options

TARGET_CHECK: Mapping[str, Check] = {TARGET: TARGET_SPARSITY}


def check_no_decay(optimizer: str, weight_decay: float) -> None:
    """Raises ValueError for a ``weight_decay`` that is not 0, which frameworks hand to every optimizer."""
    if ABSENT.reason_against("weight_decay", weight_decay) is not None:
        raise ValueError(f"{optimizer} has no weight decay, and was given {weight_decay=}: leave it out")


class SparseOptimizer(FusedOptimizer):
    """Abstract base of the optimizers whose parameters become exactly zero.

    Attributes:
        threshold: the key of a param group that makes its threshold.
    """

    threshold: ClassVar[str]

    def __init__(
        self, params: ParamsT, defaults: dict[str, Any], target: float | None, **options: Unpack[Options]
    ) -> None:
        if target is not None:
            defaults = {**defaults, TARGET: target}
            self._check_threshold(defaults)
        super().__init__(params, defaults, **options)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As :meth:`torch.optim.Optimizer.add_param_group`.

        Raises:
            ValueError, TypeError: as for any optimizer, and for a group's own target beside a threshold of 0.
        """
        if isinstance(param_group, dict) and param_group.get(TARGET) is not None:
            self._check_threshold({**self.defaults, **param_group}, f" (param group {len(self.param_groups)})")
        super().add_param_group(param_group)

    def _check_threshold(self, group: Mapping[str, Any], where: str = "") -> None:
        """Raises ValueError for a target beside a threshold of 0, which no factor moves.

        What is wrong with one of them alone is left to the check of all keys, which says it better.
        """
        checks, threshold = self.hyperparameter_checks, self.threshold
        if any(checks[key].reason_against(key, group[key]) is not None for key in (TARGET, threshold)):
            return
        if group[threshold] == 0:
            raise ValueError(
                f"target_sparsity={group[TARGET]} scales the threshold, and {threshold}=0 makes none: give it above 0"
                f"{where}"
            )

    def sparsity(self) -> Tensor:
        """The fraction of parameters that are exactly zero: a 0-dim float32 tensor in [0, 1].

        The fused step counts while it writes; a parameter that it has not written yet is counted here.
        What writes through ``.data``, as ``p.data.mul_(mask)`` does, may not be seen, here or by ``target_sparsity=``:
        the zeros that the last step left stand for it until the next one. Write under ``torch.no_grad()`` instead.
        """
        return self._own._sparsity()

    def _run(self, loss: Tensor | None, grad_scale: Tensor | None, found_inf: Tensor | None) -> None:
        self._see_targets()
        super()._run(loss, grad_scale, found_inf)

    def _run_compiled(self, loss: Tensor | None, grad_scale: Tensor | None, found_inf: Tensor | None) -> None:
        self._see_targets()
        super()._run_compiled(loss, grad_scale, found_inf)

    def _see_targets(self) -> None:
        """A group that was given its target since has a factor from now on."""
        groups: Any = self.param_groups
        if not isinstance(groups, (list, tuple)) or not all(isinstance(group, dict) for group in groups):
            return  # to whoever says what is wrong
        if any(TARGET in group and THRESHOLD_SCALE not in numbers_of(group) for group in groups):
            if self._still_served():
                self._complete_shared()
            else:
                self._choose_anew()
