"""Drop-in ``torch.optim`` optimizers whose whole step, gradient clipping included, is one fused pass pair."""

from torchclip import optim
from torchclip.clip import (
    AdaptiveGradientClip,
    AutoClip,
    ClipByGlobalNorm,
    ClipByTensorNorm,
    ClipByValue,
    ZClip,
)
from torchclip.clip_grad import clip_grad_norm_, get_total_norm
from torchclip.extensions import GradientDropout, GradientNoise, Lookahead, LRDropout
from torchclip.optimizers import (
    GRDA,
    SGD,
    SGDW,
    Adagrad,
    AdaGradNorm,
    AdaLoss,
    Adam,
    AdamW,
    MixClip,
    MomClip,
    NAdam,
    NormalizedSGD,
    RAdam,
    RAdamW,
    RMSprop,
    SGDClip,
    gRDA,
)
from torchclip.param_groups import param_groups_per_layer, param_groups_weight_decay
from torchclip.step_size import AdaLossStep, SqrtDecay, SqrtDecayLR

__version__ = "0.1.0"

__all__ = [
    "GRDA",
    "SGD",
    "SGDW",
    "AdaGradNorm",
    "AdaLoss",
    "AdaLossStep",
    "Adagrad",
    "Adam",
    "AdamW",
    "AdaptiveGradientClip",
    "AutoClip",
    "ClipByGlobalNorm",
    "ClipByTensorNorm",
    "ClipByValue",
    "GradientDropout",
    "GradientNoise",
    "LRDropout",
    "Lookahead",
    "MixClip",
    "MomClip",
    "NAdam",
    "NormalizedSGD",
    "RAdam",
    "RAdamW",
    "RMSprop",
    "SGDClip",
    "SqrtDecay",
    "SqrtDecayLR",
    "ZClip",
    "clip_grad_norm_",
    "gRDA",
    "get_total_norm",
    "optim",
    "param_groups_per_layer",
    "param_groups_weight_decay",
]
