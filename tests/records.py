"""What the conformance test runs: update rules, clip policies, mixes of them, dtypes and backends, as named records."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

import torchclip
from guarded import AWKWARD
from torchclip.clip import ClipByGlobalNorm, ClipByTensorNorm, ClipByValue, ClipPolicy

BACKENDS = ("cpu", "reference")
"""A later backend joins every test here by its name."""

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)

TYPICAL_NORM = math.sqrt(sum(layout.numel for layout in AWKWARD))
"""About the joint norm of the gradients of the awkward tensors, whose elements are of the size of 1."""


def dtype_name(dtype: torch.dtype) -> str:
    """``bfloat16`` for ``torch.bfloat16``."""
    return str(dtype).removeprefix("torch.")


@dataclass(frozen=True, eq=False)  # compared and hashed as the record that it is: options are dicts
class Rule:
    """An optimizer class and its options.

    Args:
        name: as it stands in the test's id.
        cls: the optimizer.
        options: the constructor's arguments; learning rates are such that every step moves the parameters visibly.
        second: what the second param group has instead.
        lr_decay: the factor on the learning rate after every step, as a scheduler would write it.
    """

    name: str
    cls: type[torch.optim.Optimizer]
    options: Mapping[str, Any]
    second: Mapping[str, Any] = field(default_factory=dict)
    lr_decay: float = 1.0


@dataclass(frozen=True)
class Clip:
    """A clip policy with its name in the test's id."""

    name: str
    policy: ClipPolicy | float | None


@dataclass(frozen=True)
class Case:
    """One rule under one clip policy."""

    rule: Rule
    clip: Clip

    @property
    def name(self) -> str:
        """``adamw-global_norm``."""
        return f"{self.rule.name}-{self.clip.name}"

    def build(self, params: Sequence[torch.Tensor], backend: str) -> torch.optim.Optimizer:
        """The optimizer over two param groups: even positions have the rule's options, odd ones the second set."""
        groups = [{"params": list(params[0::2])}, {"params": list(params[1::2]), **self.rule.second}]
        return self.rule.cls(groups, **self.rule.options, clip=self.clip.policy, backend=backend)


SGD, SGDW, ADAM, ADAMW = torchclip.SGD, torchclip.SGDW, torchclip.Adam, torchclip.AdamW
NORMALIZED, SGD_CLIP, MOM_CLIP, MIX_CLIP = (
    torchclip.NormalizedSGD,
    torchclip.SGDClip,
    torchclip.MomClip,
    torchclip.MixClip,
)

# A quarter of the gradients' norm clips under scope "optimizer" and "group". Under "tensor", TENSOR_GAMMA clips the
# large tensors and leaves the small ones alone, so that both branches are taken.
GAMMA = TYPICAL_NORM / 4
TENSOR_GAMMA = 4.0

SGD_MOMENTUM = Rule("sgd_momentum", SGD, {"lr": 0.2, "momentum": 0.9}, {"lr": 0.1, "momentum": 0.5})
ADAMW_PLAIN = Rule("adamw", ADAMW, {"lr": 0.2, "weight_decay": 0.1}, {"lr": 0.3, "betas": (0.8, 0.95)})
MIX_CLIP_PLAIN = Rule(
    "mix_clip", MIX_CLIP, {"lr": 0.5, "gamma": GAMMA, "momentum": 0.9}, {"lr": 0.3, "gamma": GAMMA / 2, "nu": 0.4}
)
GRDA_PLAIN = Rule("grda", torchclip.GRDA, {"lr": 0.1, "c": 1.0, "mu": 0.7}, {"lr": 0.2, "c": 0.5, "mu": 0.51})

RULES = (
    Rule("sgd", SGD, {"lr": 0.2}, {"lr": 0.1}),
    SGD_MOMENTUM,
    Rule("sgd_dampening", SGD, {"lr": 0.3, "momentum": 0.9, "dampening": 0.5}, {"dampening": 0.1}),
    Rule("sgd_nesterov", SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True}, {"nesterov": False}),
    Rule("sgd_maximize", SGD, {"lr": 0.1, "momentum": 0.9, "maximize": True}, {"momentum": 0.0}),
    Rule("sgd_coupled", SGD, {"lr": 0.2, "momentum": 0.9, "weight_decay": 0.1}, {"weight_decay": 0.0}),
    Rule("sgd_decoupled", SGD, {"lr": 0.2, "weight_decay": 0.2, "decoupled_weight_decay": True}, {"lr": 0.1}),
    Rule("sgdw", SGDW, {"lr": 0.2, "momentum": 0.9, "weight_decay": 0.2}, {"weight_decay": 0.05}),
    Rule("adam", ADAM, {"lr": 0.1}, {"lr": 0.2, "betas": (0.8, 0.95)}),
    Rule("adam_l2", ADAM, {"lr": 0.1, "weight_decay": 0.2, "eps": 1e-3}, {"weight_decay": 0.0}),
    Rule("adam_amsgrad", ADAM, {"lr": 0.2, "amsgrad": True, "betas": (0.9, 0.7)}, {"amsgrad": False}),
    Rule("adam_decoupled", ADAM, {"lr": 0.2, "weight_decay": 0.2, "decoupled_weight_decay": True}, {"eps": 1e-2}),
    ADAMW_PLAIN,
    Rule("adamw_amsgrad_maximize", ADAMW, {"lr": 0.1, "amsgrad": True, "maximize": True}, {"maximize": False}),
    Rule("nadam", torchclip.NAdam, {"lr": 0.1, "weight_decay": 0.1}, {"momentum_decay": 0.1, "betas": (0.8, 0.95)}),
    Rule("nadam_decoupled", torchclip.NAdam, {"lr": 0.2, "weight_decay": 0.1, "decoupled_weight_decay": True}),
    # beta2 of 0.5 is rectified never, 0.8 after a few steps, 0.999 from the sixth on: both branches are taken.
    Rule("radam", torchclip.RAdam, {"lr": 0.2, "betas": (0.9, 0.8)}, {"betas": (0.8, 0.999), "maximize": True}),
    Rule("radamw", torchclip.RAdamW, {"lr": 0.2, "weight_decay": 0.1}, {"betas": (0.9, 0.5)}),
    Rule("rmsprop", torchclip.RMSprop, {"lr": 0.1}, {"alpha": 0.9, "weight_decay": 0.1}),
    # A large eps: the root of a small difference of averages would show nothing but their rounding.
    Rule("rmsprop_centered", torchclip.RMSprop, {"lr": 0.1, "centered": True, "eps": 0.3}, {"momentum": 0.9}),
    Rule(
        "rmsprop_momentum",
        torchclip.RMSprop,
        {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.1, "decoupled_weight_decay": True},
        {"momentum": 0.0},
    ),
    Rule("adagrad", torchclip.Adagrad, {"lr": 0.3, "lr_decay": 0.1}, {"initial_accumulator_value": 0.5}),
    Rule("normalized_sgd", NORMALIZED, {"lr": 0.3 * TYPICAL_NORM, "momentum": 0.9}, {"lr": 0.2 * TYPICAL_NORM}),
    Rule("normalized_sgd_plain", NORMALIZED, {"lr": 0.2 * TYPICAL_NORM, "eps": 1.0}, {"momentum": 0.5}),
    Rule("normalized_sgd_group", NORMALIZED, {"lr": 0.2 * TYPICAL_NORM, "momentum": 0.5, "scope": "group"}),
    Rule("normalized_sgd_tensor", NORMALIZED, {"lr": 5.0, "momentum": 0.5, "eps": 0.5, "scope": "tensor"}, {"lr": 3.0}),
    Rule("sgd_clip", SGD_CLIP, {"lr": 0.5, "gamma": GAMMA}, {"lr": 0.1}),
    Rule("sgd_clip_momentum", SGD_CLIP, {"lr": 0.5, "gamma": GAMMA, "momentum": 0.9}, {"weight_decay": 0.1}),
    Rule("sgd_clip_smooth", SGD_CLIP, {"lr": 0.5, "gamma": GAMMA, "smooth": True}, {"gamma": GAMMA / 2}),
    Rule("sgd_clip_tensor", SGD_CLIP, {"lr": 0.5, "gamma": TENSOR_GAMMA, "scope": "tensor"}, {"maximize": True}),
    Rule("mom_clip", MOM_CLIP, {"lr": 0.5, "gamma": GAMMA}, {"momentum": 0.5}),
    Rule("mom_clip_hard", MOM_CLIP, {"lr": 0.5, "gamma": GAMMA / 2, "smooth": False}, {"lr": 0.1}),
    Rule("mom_clip_group", MOM_CLIP, {"lr": 0.5, "gamma": GAMMA, "scope": "group"}, {"weight_decay": 0.1}),
    MIX_CLIP_PLAIN,
    Rule("mix_clip_hard", MIX_CLIP, {"lr": 0.5, "gamma": GAMMA / 2, "smooth": False}, {"momentum": 0.9}),
    Rule("mix_clip_group", MIX_CLIP, {"lr": 0.5, "gamma": GAMMA / 2, "scope": "group"}, {"smooth": False}),
    Rule("mix_clip_tensor", MIX_CLIP, {"lr": 0.5, "gamma": TENSOR_GAMMA, "scope": "tensor"}, {"momentum": 0.5}),
    Rule("mix_clip_no_momentum", MIX_CLIP, {"lr": 0.5, "gamma": GAMMA, "momentum": 0.0}, {"momentum": 0.9}),
    Rule("mix_clip_nu_0", MIX_CLIP, {"lr": 0.5, "gamma": GAMMA, "nu": 0.0}, {"nu": 1.0, "momentum": 0.5}),
    Rule("mix_clip_decay", MIX_CLIP, {"lr": 0.5, "gamma": GAMMA, "weight_decay": 0.3}, {"maximize": True}),
    GRDA_PLAIN,
    Rule("grda_schedule", torchclip.GRDA, {"lr": 0.2, "c": 1.0, "mu": 0.51}, {"mu": 1.0}, lr_decay=0.9),
    Rule("grda_no_pruning", torchclip.GRDA, {"lr": 0.1}, {"c": 0.1}),
)

NO_CLIP = Clip("no_clip", None)

POLICIES = (
    Clip("float", TYPICAL_NORM / 2),
    Clip("global_norm", ClipByGlobalNorm(TYPICAL_NORM / 2)),
    Clip("global_norm_unclipped", ClipByGlobalNorm(math.inf)),
    Clip("global_norm_smooth", ClipByGlobalNorm(TYPICAL_NORM, smooth=True, nonfinite="skip")),
    Clip("group_norm", ClipByGlobalNorm(TYPICAL_NORM / 2, scope="group", nonfinite="error")),
    # Tensors of up to about ten elements stay below this norm, the others are clipped.
    Clip("tensor_norm", ClipByTensorNorm(4.0)),
    Clip("tensor_norm_smooth", ClipByTensorNorm(4.0, smooth=True)),
    Clip("value", ClipByValue(0.75)),
)


def _mixes(count: int, seed: int) -> list[Case]:
    """A sample of mixes; the seed fixes it, so that a failure can be run again by its id."""
    draw = random.Random(seed)
    cases = []
    for number in range(count):
        rule = draw.choice(RULES)
        other = draw.choice([r for r in RULES if r.cls is rule.cls])
        # GRDA reads its parameter only once: it has neither decay nor maximize.
        extra = {} if rule.cls is torchclip.GRDA else {"weight_decay": draw.choice((0.0, 0.1, 0.3))}
        if rule.cls is not torchclip.GRDA:
            extra["maximize"] = draw.random() < 0.5
        shared = {key: value for key, value in other.options.items() if key not in ("scope", "nesterov", "dampening")}
        mixed = Rule(f"mix{number}_{rule.name}", rule.cls, {**rule.options, **extra}, {**shared, **rule.second})
        cases.append(Case(mixed, draw.choice(POLICIES)))
    return cases


CASES = (
    *(Case(rule, NO_CLIP) for rule in RULES),
    *(Case(rule, clip) for clip in POLICIES for rule in (ADAMW_PLAIN, MIX_CLIP_PLAIN)),
    *(Case(rule, POLICIES[1]) for rule in (SGD_MOMENTUM, GRDA_PLAIN)),
    *_mixes(8, seed=20260117),
)
