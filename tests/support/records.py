"""What the conformance test runs: rules, clip policies, step sizes, extensions, mixes of them, dtypes and backends."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

import torchclip
from rule_records import ADAMW_PLAIN, GRDA_PLAIN, MIX_CLIP_PLAIN, RULES, SGD_MOMENTUM, SPARSE, TYPICAL_NORM, Rule
from torchclip import (
    AdaGC,
    AdaLossStep,
    AdaptiveGradientClip,
    AutoClip,
    ClipByGlobalNorm,
    ClipByTensorNorm,
    ClipByValue,
    GradientDropout,
    GradientNoise,
    Lookahead,
    LRDropout,
    PolyakStep,
    SqrtDecay,
    WeightEMA,
    ZClip,
)
from torchclip.policies.clip import ClipPolicy
from torchclip.policies.extensions import Extension
from torchclip.policies.step_size import StepSize

BACKENDS = ("cuda", "triton", "cpu", "reference")
"""A later backend joins every test here by its name. Without a GPU "cuda" is emulated, and "triton" interpreted."""

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)

SEED = 20260117
"""Of every draw, by the tests and by the optimizers under test."""


def dtype_name(dtype: torch.dtype) -> str:
    """``bfloat16`` for ``torch.bfloat16``."""
    return str(dtype).removeprefix("torch.")


@dataclass(frozen=True)
class Clip:
    """A clip policy with its name in the test's id."""

    name: str
    policy: ClipPolicy | float | None


@dataclass(frozen=True)
class Pace:
    """A step size with its name in the test's id."""

    name: str
    step_size: StepSize | None


@dataclass(frozen=True)
class Extras:
    """Extensions with their name in the test's id."""

    name: str
    extensions: tuple[Extension, ...]


NO_CLIP, NO_STEP_SIZE, NO_EXTENSIONS = Clip("no_clip", None), Pace("", None), Extras("", ())

SPIKES: Mapping[int, float] = {2: 2.0, 5: 4.0, 7: 0.5, 8: 4.0}
"""Factors on all gradients of a step, for policies that look at past norms; powers of two, which round nothing."""


@dataclass(frozen=True)
class Case:
    """One rule under one clip policy, with one step size and extensions."""

    rule: Rule
    clip: Clip
    pace: Pace = NO_STEP_SIZE
    extras: Extras = NO_EXTENSIONS

    @property
    def name(self) -> str:
        """``adamw-global_norm``, ``adamw-no_clip-sqrt_decay-noise``."""
        parts = (self.rule.name, self.clip.name, self.pace.name, self.extras.name)
        return "-".join(part for part in parts if part)

    @property
    def draws(self) -> bool:
        """Whether a step draws random numbers."""
        return any(not isinstance(extension, (Lookahead, WeightEMA)) for extension in self.extras.extensions)

    @property
    def takes_loss(self) -> bool:
        """Whether every step needs the loss."""
        return self.rule.cls is torchclip.AdaLoss or isinstance(self.pace.step_size, (AdaLossStep, PolyakStep))

    def gradient_scale(self, step: int) -> float:
        """The factor on all gradients of a step."""
        return SPIKES.get(step, 1.0) if isinstance(self.clip.policy, (AutoClip, ZClip, AdaGC)) else 1.0

    def build(self, params: Sequence[torch.Tensor], backend: str, seed: int = SEED) -> torch.optim.Optimizer:
        """The optimizer over two param groups: even positions have the rule's options, odd ones the second set."""
        groups = [{"params": list(params[0::2])}, {"params": list(params[1::2]), **self.rule.second}]
        step_size = {} if self.pace.step_size is None else {"step_size": self.pace.step_size}
        return self.rule.cls(
            groups,
            **self.rule.options,
            **step_size,
            clip=self.clip.policy,
            extensions=self.extras.extensions,
            seed=seed,
            backend=backend,
        )


POLICIES = (
    Clip("float", TYPICAL_NORM / 2),
    Clip("global_norm", ClipByGlobalNorm(TYPICAL_NORM / 2)),
    Clip("global_norm_unclipped", ClipByGlobalNorm(math.inf)),
    Clip("global_norm_smooth", ClipByGlobalNorm(TYPICAL_NORM, smooth=True, nonfinite="skip")),
    Clip("group_norm", ClipByGlobalNorm(TYPICAL_NORM / 2, scope="group", nonfinite="error")),
    # Tensors of up to about forty elements stay below this norm, the others are clipped.
    Clip("tensor_norm", ClipByTensorNorm(8.0)),
    Clip("tensor_norm_smooth", ClipByTensorNorm(8.0, smooth=True)),
    Clip("value", ClipByValue(0.75)),
    # A row's gradient has about the norm of its weights: some rows are clipped, and others not.
    Clip("adaptive", AdaptiveGradientClip(0.75, eps=0.1, nonfinite="error")),
    # A window that is full before the state is loaded, and goes round twice.
    Clip("auto", AutoClip(percentile=30.0, window=3)),
    Clip("auto_growing", AutoClip(percentile=50.0, nonfinite="skip")),
    Clip("z", ZClip(alpha=0.7, z_threshold=2.0, warmup_steps=2)),
    Clip("ada_gc", AdaGC(lambda_abs=TYPICAL_NORM / 2, lambda_rel=1.05, beta=0.9, warmup_steps=3)),
    Clip("z_bounded", ZClip(alpha=0.9, z_threshold=1.0, warmup_steps=5, max_norm=TYPICAL_NORM, nonfinite="skip")),
)

STEP_SIZES = (
    Pace("ada_loss_step", AdaLossStep(b0=0.5, alpha=0.25, c=0.5)),
    # Of about the size of the learning rates here: one larger, and one smaller.
    Pace("polyak", PolyakStep(f_star=0.25, c=2 / TYPICAL_NORM**2, growth=1.5, initial_step=0.1)),
    Pace("sqrt_decay", SqrtDecay(b0=0.5, alpha=0.25)),
)

# The noise is of a third of the gradients' size. k does not divide the step after which the state is loaded.
EXTENSIONS = (
    Extras("noise", (GradientNoise(eta=0.1, gamma=0.55),)),
    Extras("dropout", (GradientDropout(0.2),)),
    Extras("lr_dropout", (LRDropout(0.4),)),
    Extras("lookahead", (Lookahead(k=3, alpha=0.5),)),
    Extras("ema", (WeightEMA(decay=0.8),)),
)
ALL_EXTENSIONS = Extras("all", tuple(extension for extras in EXTENSIONS[:4] for extension in extras.extensions))

WITHOUT_STEPS = (LRDropout, Lookahead)
"""What rules that set their parameters anew from an accumulator cannot have."""


def _mixes(count: int, seed: int) -> list[Case]:
    """A sample of mixes; the seed fixes it, so that a failure can be run again by its id."""
    draw = random.Random(seed)
    cases = []
    for number in range(count):
        rule = draw.choice(RULES)
        other = draw.choice([r for r in RULES if r.cls is rule.cls])
        extra: dict[str, Any] = {}
        if rule.cls not in SPARSE:
            extra = {"weight_decay": draw.choice((0.0, 0.1, 0.3)), "maximize": draw.random() < 0.5}
        # What is an argument of the constructor alone, or what Nesterov's momentum would contradict.
        alone = {"scope", "nesterov", "dampening"}
        alone |= {"b0", "alpha", "c"} if rule.cls is torchclip.AdaLoss else set()
        shared = {key: value for key, value in other.options.items() if key not in alone}
        mixed = Rule(f"mix{number}_{rule.name}", rule.cls, {**rule.options, **extra}, {**shared, **rule.second})
        clip, pace = draw.choice(POLICIES), _drawn_step_size(draw, rule)
        if isinstance(clip.policy, ClipByValue) and isinstance(pace.step_size, PolyakStep):
            pace = NO_STEP_SIZE  # which goes by the norm after clipping
        cases.append(Case(mixed, clip, pace, _drawn_extensions(draw, rule)))
    return cases


def _drawn_step_size(draw: random.Random, rule: Rule) -> Pace:
    pace = draw.choice((NO_STEP_SIZE, *STEP_SIZES))
    return NO_STEP_SIZE if rule.cls is torchclip.AdaLoss else pace  # it has one of its own


def _drawn_extensions(draw: random.Random, rule: Rule) -> Extras:
    drawn = [extras for extras in EXTENSIONS if draw.random() < 0.5]
    if len({extras.name for extras in drawn} & {"lookahead", "ema"}) == 2:
        drawn = drawn[:-1]
    if rule.cls in SPARSE:
        drawn = [extras for extras in drawn if not isinstance(extras.extensions[0], WITHOUT_STEPS)]
    names = "+".join(extras.name for extras in drawn)
    return Extras(names, tuple(extension for extras in drawn for extension in extras.extensions))


GLOBAL_NORM = POLICIES[1]
SQRT_DECAY = STEP_SIZES[2]

CASES = (
    *(Case(rule, NO_CLIP) for rule in RULES),
    *(Case(rule, clip) for clip in POLICIES for rule in (ADAMW_PLAIN, MIX_CLIP_PLAIN)),
    *(Case(rule, GLOBAL_NORM) for rule in (SGD_MOMENTUM, GRDA_PLAIN)),
    *(Case(rule, NO_CLIP, pace) for pace in STEP_SIZES for rule in (ADAMW_PLAIN, SGD_MOMENTUM)),
    *(Case(rule, NO_CLIP, extras=extras) for extras in EXTENSIONS for rule in (SGD_MOMENTUM, MIX_CLIP_PLAIN)),
    Case(ADAMW_PLAIN, GLOBAL_NORM, SQRT_DECAY, ALL_EXTENSIONS),
    *_mixes(16, SEED),
)
