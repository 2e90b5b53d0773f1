"""What an optimizer's modifiers are to the kernels: flags that they are compiled for, and numbers that they read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from torchclip.backends.codes import (
    LOSS_STEP_SIZE,
    NO_CLIP,
    NONFINITES,
    PERCENTILE_CLIP,
    SQRT_STEP_SIZE,
    VALUE_CLIP,
    Z_CLIP,
    GroupNumbers,
)
from torchclip.backends.triton import columns
from torchclip.kernels.tables import Finish
from torchclip.rules.norms import NonFinite
from torchclip.rules.rule_spec import RuleSpec

POLICY_NUMBERS = {
    "limit": columns.POLICY_LIMIT,
    "unit_eps": columns.POLICY_UNIT_EPS,
    "percentile": columns.POLICY_PERCENTILE,
    "window": columns.POLICY_WINDOW,
    "z_alpha": columns.POLICY_Z_ALPHA,
    "z_threshold": columns.POLICY_Z_THRESHOLD,
    "z_warmup": columns.POLICY_Z_WARMUP,
    "z_eps": columns.POLICY_Z_EPS,
    "b0": columns.POLICY_B0,
    "alpha": columns.POLICY_ALPHA,
    "c": columns.POLICY_C,
    "noise_eta": columns.POLICY_NOISE_ETA,
    "noise_gamma": columns.POLICY_NOISE_GAMMA,
    "lookahead_k": columns.POLICY_LOOKAHEAD_K,
    "lookahead_alpha": columns.POLICY_LOOKAHEAD_ALPHA,
}
"""The column of each of the modifiers' numbers that a kernel reads."""

STAGES = {
    "gradient_dropout": columns.GRADIENT_DROPOUT,
    "gradient_noise": columns.GRADIENT_NOISE,
    "lr_dropout": columns.LR_DROPOUT,
}
"""The stage of each extension that draws."""


class Settings:
    """The modifiers, from the numbers that ``torchclip.backends.codes.configuration`` and ``group_numbers`` give."""

    def __init__(self, numbers: Mapping[str, float], groups: Sequence[GroupNumbers] = ()) -> None:
        self.groups = tuple(groups)
        self.numbers = {"limit": torch.inf, "b0": 1.0, "clip_scope": 0, "nonfinite": 0, "step_size": 0, **numbers}
        self.clip = int(self.numbers["clip"])
        self.measures = self.clip not in (NO_CLIP, VALUE_CLIP)
        self.nonfinite = NONFINITES[int(self.numbers["nonfinite"])]
        self.step_size = int(self.numbers["step_size"])
        self.looks_ahead = bool(self.numbers.get("lookahead_k"))
        self.draws = any(self.numbers.get(name) for name in STAGES)
        self.counts_steps = self.draws or self.looks_ahead or self.step_size == SQRT_STEP_SIZE
        self.stages = sum(stage for name, stage in STAGES.items() if self.numbers.get(name))
        if self.clip == VALUE_CLIP:
            self.stages |= columns.VALUE_CLIP

    def finish(self, spec: RuleSpec, *, is_single: bool, fresh: bool, sums_units: bool) -> Finish:
        """What the end of a norm pass is compiled for; see there."""
        return Finish(
            rule=spec.name,
            clip=self.clip,
            smooth=bool(self.numbers.get("smooth")),
            skips_nonfinite=self.nonfinite is not NonFinite.PROPAGATE,
            is_single=is_single,
            step_size=self.step_size,
            counts_steps=self.counts_steps,
            noise=bool(self.numbers.get("gradient_noise")),
            lookahead=self.looks_ahead,
            scalars=len(spec.scalars),
            fresh=fresh,
            counts_clips=not self.measures,
            sums_units=sums_units,
            by_group=bool(self.groups),
        )

    def policy_table(self) -> Tensor:
        """The numbers that kernels read: float64 [POLICY_COLUMNS]."""
        table = torch.zeros(columns.POLICY_COLUMNS, dtype=torch.float64, device="cpu")
        for name, column in POLICY_NUMBERS.items():
            table[column] = float(self.numbers.get(name, 0.0))
        return table

    def group_table(self) -> Tensor:
        """The policies of param groups, where groups have their own: float64 [groups, GROUP_CLIP_COLUMNS]."""
        table = torch.zeros(len(self.groups), columns.GROUP_CLIP_COLUMNS, dtype=torch.float64, device="cpu")
        for row, (unit, limit, smooth, nonfinite) in zip(table, self.groups, strict=True):
            row[columns.GROUP_CLIP_UNIT], row[columns.GROUP_CLIP_LIMIT] = unit, limit
            row[columns.GROUP_CLIP_SMOOTH] = smooth
            row[columns.GROUP_CLIP_REFUSES] = NONFINITES[nonfinite] is not NonFinite.PROPAGATE
        return table

    def shared_numbers(self) -> dict[str, int]:
        """The numbers of torchclip/state/group_state.py that a step needs, and how many each of them is."""
        wanted = {"step": 1} if self.counts_steps else {}
        if self.step_size == LOSS_STEP_SIZE:
            wanted["b_squared"] = 1
        if self.clip in (PERCENTILE_CLIP, Z_CLIP):
            wanted["norm_count"] = 1
        if self.clip == PERCENTILE_CLIP:
            wanted["norm_window"] = int(self.numbers["window"])
        if self.clip == Z_CLIP:
            wanted |= {"norm_mean": 1, "norm_variance": 1}
        return wanted

    def thresholds(self) -> list[int]:
        """Of the draws: an element is dropped when its word is below."""
        return [int(self.numbers.get(name, 0)) for name in ("gradient_threshold", "lr_threshold")]
