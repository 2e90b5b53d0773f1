"""Every update rule that the conformance test runs, with options that reach its branches."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

import torchclip
from memory_guard import AWKWARD

TYPICAL_NORM = math.sqrt(sum(layout.numel for layout in AWKWARD))
"""About the joint norm of the gradients of the awkward tensors, whose elements are of the size of 1."""


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

LIN_BREG = Rule("lin_breg", torchclip.LinBreg, {"lr": 0.1, "lam": 0.5, "delta": 0.8}, {"lam": 0.0, "momentum": 0.5})
ADA_BREG = Rule(
    "ada_breg", torchclip.AdaBreg, {"lr": 0.1, "lam": 0.5}, {"lam": 0.2, "delta": 2.0, "betas": (0.8, 0.95)}
)
SPARSE = (torchclip.GRDA, torchclip.LinBreg, torchclip.AdaBreg)
"""The rules that set their parameters anew from an accumulator: without decay, maximize, and extensions on the step."""

# A sum that starts at b0^2 = 1 is soon that of the gradients' squares: TYPICAL_NORM^2 a step over all of them.
ADA_NORM = torchclip.AdaGradNorm
ADA_LOSS = Rule("ada_loss", torchclip.AdaLoss, {"lr": 0.5, "alpha": 0.5}, {"lr": 0.3, "momentum": 0.5})
ADA_GRAD_NORM = Rule("ada_grad_norm", ADA_NORM, {"lr": 0.3 * TYPICAL_NORM}, {"weight_decay": 0.1, "momentum": 0.5})
ADA_GRAD_NORM_ROW = Rule(
    "ada_grad_norm_row",
    ADA_NORM,
    {"lr": 2.0, "b0": 0.5, "momentum": 0.9, "scope": "row"},
    {"lr": 1.0, "momentum": 0.5, "weight_decay": 0.1},
)

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
    Rule("lion", torchclip.Lion, {"lr": 0.2}, {"betas": (0.5, 0.8), "weight_decay": 0.2}),
    Rule("lion_decay", torchclip.Lion, {"lr": 0.1, "weight_decay": 0.2, "maximize": True}, {"maximize": False}),
    GRDA_PLAIN,
    LIN_BREG,
    Rule("lin_breg_momentum", torchclip.LinBreg, {"lr": 0.3, "lam": 0.4, "momentum": 0.9}, {"momentum": 0.0}),
    ADA_BREG,
    Rule("grda_schedule", torchclip.GRDA, {"lr": 0.2, "c": 1.0, "mu": 0.51}, {"mu": 1.0}, lr_decay=0.9),
    ADA_LOSS,
    Rule(
        "ada_loss_momentum",
        torchclip.AdaLoss,
        {"lr": 0.3, "b0": 2.0, "alpha": 0.5, "c": 0.25, "momentum": 0.9, "weight_decay": 0.1},
        {"lr": 0.2, "momentum": 0.0},
    ),
    Rule("ada_loss_nesterov", torchclip.AdaLoss, {"lr": 0.2, "momentum": 0.9, "nesterov": True}, {"maximize": True}),
    ADA_GRAD_NORM,
    Rule(
        "ada_grad_norm_momentum",
        ADA_NORM,
        {"lr": TYPICAL_NORM, "b0": TYPICAL_NORM / 4, "momentum": 0.8},
        {"momentum": 0.0, "weight_decay": 0.1},
    ),
    Rule(
        "ada_grad_norm_group",
        ADA_NORM,
        {"lr": TYPICAL_NORM, "momentum": 0.5, "scope": "group"},
        {"b0": TYPICAL_NORM / 4, "weight_decay": 0.1},
    ),
    Rule("ada_grad_norm_group_plain", ADA_NORM, {"lr": 0.3 * TYPICAL_NORM, "scope": "group"}, {"momentum": 0.5}),
    Rule("ada_grad_norm_tensor", ADA_NORM, {"lr": 3.0, "scope": "tensor"}, {"b0": 3.0, "weight_decay": 0.1}),
    Rule(
        "ada_grad_norm_tensor_momentum",
        ADA_NORM,
        {"lr": 5.0, "b0": 0.5, "momentum": 0.9, "scope": "tensor"},
        {"weight_decay": 0.1, "maximize": True},
    ),
    ADA_GRAD_NORM_ROW,
    Rule("ada_grad_norm_row_plain", ADA_NORM, {"lr": 1.0, "scope": "row"}, {"b0": 0.5, "weight_decay": 0.1}),
    Rule(
        "ada_grad_norm_decoupled",
        ADA_NORM,
        {"lr": 0.9, "momentum": 0.5, "scope": "row", "weight_decay": 0.2, "decoupled_weight_decay": True},
        {"maximize": True},
    ),
    Rule("grda_no_pruning", torchclip.GRDA, {"lr": 0.1}, {"c": 0.1}),
)
