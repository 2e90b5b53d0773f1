"""What the rules that leave exact zeros have in common: their count, and thresholds that are steered by it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from torchclip.backends.choice import ON_DEVICE
from torchclip.rules.hyperparameters import ABSENT, TARGET_SPARSITY, Check
from torchclip.rules.soft_threshold import THRESHOLD_SCALE
from torchclip.state.group_state import numbers_of
from torchclip.step.fused_optimizer import FusedOptimizer
from torchclip.step.metrics import sparsity

GAIN = 0.25
"""κ. Where a relative change of the threshold moves the share of zeros by less than 2/κ = 8 times as much, the share
settles. Where the threshold has to grow with t, since v does, the share lags by 1 / (κ t)."""

FASTEST = 0.01
"""The most that a threshold moves in a step, as a share of it. A network whose weights go to zero faster than it learns
which of them it can spare does not learn at all."""

_RANGE = (1e-6, 1e6)
"""In which a scale stays, so that a target that no threshold reaches does not carry it out of all bounds."""

TARGET: Mapping[str, Check] = {"target_sparsity": TARGET_SPARSITY}


def check_no_decay(optimizer: str, weight_decay: float) -> None:
    """Raises ValueError for a ``weight_decay`` that is not 0, which frameworks hand to every optimizer."""
    if ABSENT.reason_against("weight_decay", weight_decay) is not None:
        raise ValueError(f"{optimizer} has no weight decay, and was given {weight_decay=}: leave it out")


def with_target(defaults: dict[str, Any], target: float | None, threshold: str) -> dict[str, Any]:
    """An optimizer's defaults, with the target where there is one.

    Raises:
        ValueError: for a target beside a threshold of 0, which no factor moves. ``threshold`` is its key.
    """
    if target is None:
        return defaults
    if defaults[threshold] == 0:
        raise ValueError(
            f"target_sparsity={target} scales the threshold, and {threshold}=0 makes none: give it above 0"
        )
    return {**defaults, "target_sparsity": target}


class SparseOptimizer(FusedOptimizer):
    """Abstract base of the optimizers whose parameters become exactly zero."""

    def sparsity(self) -> Tensor:
        """The fraction of parameters that are exactly zero: a 0-dim float32 tensor in [0, 1].

        The fused step counts while it writes; a parameter that it has not written yet is counted here.
        """
        return self._own._sparsity()

    def _compiled_reason(self, backend: str) -> str | None:
        if backend in ON_DEVICE and any("target_sparsity" in group for group in self.param_groups):
            return "no backend on a GPU steers thresholds yet; drop backend, or target_sparsity"
        return super()._compiled_reason(backend)

    def _complete_shared(self) -> None:
        steered = any("target_sparsity" in group for group in self.param_groups)
        if steered and self._processes.parts(self) is not None:
            raise ValueError(
                "target_sparsity goes by the zeros of whole parameters, and other processes hold parts of these: leave "
                "it out, or give each process whole parameters"
            )
        super()._complete_shared()

    @torch.no_grad()
    def _after_step(self) -> None:
        """The threshold of every group that has a target goes by the zeros that this step has left."""
        if not any("target_sparsity" in group for group in self.param_groups):
            return
        skipped = self._skips()
        if any("target_sparsity" in group and THRESHOLD_SCALE not in numbers_of(group) for group in self.param_groups):
            # A group was given its target since, and not every backend steers.
            if self._still_served():
                self._complete_shared()
            else:
                self._choose_anew()
        if skipped is True:
            return
        written, begin = ([] if self._plan is None else self._plan.zeros), 0
        for group in self.param_groups:
            end = begin + len(group["params"])
            if "target_sparsity" in group and any(parameter.grad is not None for parameter in group["params"]):
                counted = written[begin:end] if isinstance(written, list) else None
                scale = numbers_of(group)[THRESHOLD_SCALE]
                share = sparsity([group], counted).to(scale)
                move = (GAIN * (group["target_sparsity"] - share)).clamp(-FASTEST, FASTEST)
                steered = (scale * move.exp()).clamp(*_RANGE)
                scale.copy_(steered if skipped is False else torch.where(skipped, scale, steered))
            begin = end

    def _skips(self) -> bool | Tensor:
        """Whether this step was skipped: a tensor in a compiled graph."""
        report = self._last.report
        if self._plan is None and report is not None:
            return report.skipped
        return self.step_was_skipped
